"""Command line: every verb parses, makes one library call and prints. Nothing imports this room."""
