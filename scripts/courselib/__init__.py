"""The parts of scripts/chapters, one file each:

course       the chapters: folders, pages, programs
blocks       what a page holds: console blocks, commands, expected lines
compare      what counts as the same line
hosts        a host of one's own for a page, and the guard around it
pages        executes a page
terminal     types into a command that wants a terminal
translation  which Chinese sections lag behind
check        asks a binary the checks of the chapters; hints
labs         break-it labs
project      the projects after the last chapter
branches     chNN and chNN-start, start, diff, solution, matrix
modules      which source files a program needs
bundle       one archive for a room without a network
table        what each chapter's program can do
figures      pictures from --explain=json
"""
