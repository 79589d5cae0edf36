"""Scaling laws: what the loss is as a function of parameters, tokens and FLOPs, with intervals.

    runs         the table of runs that is fitted, from a CSV or elsewhere, and what is wrong with it
    parametric   L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, approach 3)
    minimise     how that fit is made
    bootstrap    how intervals are made
    frontier     the compute-optimal N and D of a fitted law
    isoflop      parabolas through runs of one cost (approach 2)
    envelope     the lower envelope of training curves (approach 1)
    power_law    straight lines through logarithms (Kaplan et al. 2020)
    repeated     what repeated tokens are worth (Muennighoff et al. 2023)
    analysis     all of it
    page         the report

Fits take arrays and know nothing of workdirs; `llm.sweep.scaling` makes a table of a sweep's runs.
"""
