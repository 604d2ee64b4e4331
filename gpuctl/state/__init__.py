"""What a laptop keeps: one folder a run. Everything in it can be lost; the AWS account is the database."""
