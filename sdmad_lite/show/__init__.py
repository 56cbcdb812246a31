"""What people look at: `plots` are pictures of plain results; `sign_panels`, `score_panels` and `image_panels` move.

`panel` is what all panels share, `dashboard` has them on one page; `report` is the page that a run leaves behind,
`course` what the notebooks share. Each is imported by its name, so that `course` needs no matplotlib.
"""
