"""Adversarial attacks: each a pure function of (key, model, images, labels), compiled whole; see `attacks.run`.

Attacks with a budget ε make an image within ε of the original that is misclassified (or gets a target class); attacks
that minimise a norm look for the nearest such image. All return an `AttackResult`.
"""

from jaxopt_input.attacks import criteria
from jaxopt_input.attacks.apgd import apgd
from jaxopt_input.attacks.bim import bim
from jaxopt_input.attacks.fgsm import fgsm
from jaxopt_input.attacks.mifgsm import mi_fgsm
from jaxopt_input.attacks.pgd import pgd
from jaxopt_input.attacks.problem import Found, Lanes, Problem
from jaxopt_input.attacks.result import AttackResult, GradientMaskingWarning
from jaxopt_input.attacks.run import Options, run

__all__ = [
    "AttackResult",
    "Found",
    "GradientMaskingWarning",
    "Lanes",
    "Options",
    "Problem",
    "apgd",
    "bim",
    "criteria",
    "fgsm",
    "mi_fgsm",
    "pgd",
    "run",
]
