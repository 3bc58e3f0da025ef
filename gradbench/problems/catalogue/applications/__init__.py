"""Objectives as they are met in practice: the family *applications*.

docs/applications.md lists them. Each is written from its mathematics, beside a derivative that no
automatic differentiation took part in: in closed form, or by sensitivities or an adjoint written
out by hand.
"""
