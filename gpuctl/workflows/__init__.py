"""The verbs, as plain functions over AWS, SSH, the terminal and what the laptop keeps."""
