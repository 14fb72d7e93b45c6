"""Language: from kept tokens and a question to an answer."""
