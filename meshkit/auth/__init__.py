"""Who is calling: principals and the tokens that prove them."""
