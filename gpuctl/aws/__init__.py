"""Every boto3 call. boto3 is imported when it is first needed: importing this package costs nothing."""
