"""What goes wrong outside the program, and that nothing finished is lost or wrong for it."""
