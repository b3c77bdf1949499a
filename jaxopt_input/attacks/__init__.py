"""Adversarial attacks: each a pure function of (key, model, images, labels), compiled whole; see `attacks.run`.

Attacks with a budget ε make an image within ε of the original that is misclassified (or gets a target class); attacks
that minimize a norm look for the nearest such image. All return an `AttackResult`.
"""

from jaxopt_input.attacks import criteria
from jaxopt_input.attacks.apgd import apgd
from jaxopt_input.attacks.autoattack import autoattack
from jaxopt_input.attacks.boundary import boundary
from jaxopt_input.attacks.carlini_wagner import carlini_wagner
from jaxopt_input.attacks.ddn import ddn
from jaxopt_input.attacks.deepfool import deepfool
from jaxopt_input.attacks.define import attack
from jaxopt_input.attacks.ead import ead
from jaxopt_input.attacks.evolution import map_elites
from jaxopt_input.attacks.fab import fab
from jaxopt_input.attacks.fgsm import bim, fgsm, mi_fgsm, pgd
from jaxopt_input.attacks.fmn import fmn
from jaxopt_input.attacks.fooling import Fooling, fool
from jaxopt_input.attacks.hopskipjump import hop_skip_jump
from jaxopt_input.attacks.problem import Found, Lanes, Problem
from jaxopt_input.attacks.result import AttackResult, GradientMaskingWarning
from jaxopt_input.attacks.run import Options, run
from jaxopt_input.attacks.square import square
from jaxopt_input.attacks.szegedy import szegedy
from jaxopt_input.attacks.transfer import transfer
from jaxopt_input.attacks.universal import universal, universal_attack

__all__ = [
    "AttackResult",
    "Fooling",
    "Found",
    "GradientMaskingWarning",
    "Lanes",
    "Options",
    "Problem",
    "apgd",
    "attack",
    "autoattack",
    "bim",
    "boundary",
    "carlini_wagner",
    "criteria",
    "ddn",
    "deepfool",
    "ead",
    "fab",
    "fgsm",
    "fmn",
    "fool",
    "hop_skip_jump",
    "map_elites",
    "mi_fgsm",
    "pgd",
    "run",
    "square",
    "szegedy",
    "transfer",
    "universal",
    "universal_attack",
]
