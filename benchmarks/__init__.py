"""What the product costs, measured from outside. Belongs here: measurements and what prints them. Asserts no speed."""
