"""Public data sets in the layout they are distributed in, by name: from a folder to the rows of a table.

layouts                       walking a folder, and what was found in it
brats, atlas, chaos           one data set each
lvit                          MoNuSeg, QaTa-COV19 and MosMedData+, which come with sentences
tabled                        those that come with tables
registry                      the names, and which of them a folder is
tags                          slice tags from segmentations: a conversion that opens masks
splits                        the papers' rules, and split files
presets                       the papers' preprocessing
tables                        the rows as labels.csv
cohorts                       all of it together, for `tagmask prepare`
"""
