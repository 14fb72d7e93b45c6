"""What commands print: tables, pictures, JSON, errors and progress."""
