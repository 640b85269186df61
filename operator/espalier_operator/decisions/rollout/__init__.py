"""What a rollout does next. Pure: no clock, no I/O; every input is observed before, every effect is in the plan.

Read `machine.RULES` first: it is the whole machine. `world` is what may be looked at, `progress` what is remembered, `plan` the answer.
"""
