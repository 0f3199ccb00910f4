"""`certify`: whether a decoder's window is real, as computed verdicts, a model card and pictures."""
