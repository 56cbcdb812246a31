"""What people look at: `plots` are pictures of plain results, `report` is the page that a run leaves behind.

`explained` says for a few images why; `text` is for a terminal.
"""
