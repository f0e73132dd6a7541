"""The formats of annotation files, one module each. `table.py` lists them; `row_builder.py` is what they share."""
