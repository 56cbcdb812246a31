"""The commands of `sdmad`, one file each. Every file has `add`, which describes the command to argparse, and a
function that takes the arguments and returns an `Answer`: a plain dict for --json and the same as text.

Nothing heavy is imported at the top of these files, so that `sdmad --help` answers at once.
"""
