"""From folders and files to scores with their noise floor and their protocol."""
