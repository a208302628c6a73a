"""A score: how much a prompt is worth rolling out, given its belief. Higher is better."""


def hardest_first(alpha, beta, power=1.0):
    return (beta / (alpha + beta)) ** power
