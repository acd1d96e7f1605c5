"""Barriers without a GPU: roles are generators that wait and arrive as the threads of a kernel do.

Barriers know the parity of a phase only, as the real ones; a scheduler runs the roles in random order.
"""

import sys


class Barrier:
    def __init__(self, arrivals):
        self.arrivals = self.missing = arrivals
        self.phase = 0

    def arrive(self):
        self.missing -= 1
        if self.missing == 0:
            self.missing = self.arrivals
            self.phase += 1

    def complete(self, parity):
        return self.phase % 2 != parity

    def wait(self, parity):
        while not self.complete(parity):
            yield


class Stage:
    def __init__(self, count):
        self.count, self.stage, self.parity = count, 0, 0

    def advance(self):
        self.stage = (self.stage + 1) % self.count
        self.parity ^= self.stage == 0

    def before(self):
        before = Stage(self.count)
        before.stage = (self.stage or self.count) - 1
        before.parity = self.parity ^ (self.stage == 0)
        return before

    def filled(self, barriers):
        return barriers[self.stage].wait(self.parity)

    def free(self, barriers):
        return barriers[self.stage].wait(self.parity ^ 1)


class Unit:
    """The matrix unit, which warpgroups take by turns (unit.cuh)."""

    def __init__(self, users=2):
        self.users, self.passed = users, 0

    def take(self, group):
        while self.passed % self.users != group:
            yield

    def give(self, group):
        assert self.passed % self.users == group, "the unit is another's"
        self.passed += 1


def schedule(rng, roles, progress):
    """Runs the roles to their ends. `progress()` changes whenever something was achieved."""
    idle = 0
    while roles:
        role = rng.choice(roles)
        before = (len(roles), progress())
        for _ in range(rng.randint(1, 30)):
            try:
                next(role)
            except StopIteration:
                roles.remove(role)
                break
        idle = idle + 1 if before == (len(roles), progress()) else 0
        assert idle < 20_000, "waits do not end"


def try_cases(name, run):
    cases = int(sys.argv[1]) if sys.argv[1:] else 1000
    for seed in range(cases):
        try:
            run(seed)
        except AssertionError as error:
            sys.exit(f"{name}, case {seed}: {error}")
    print(f"{name}: {cases} random cases, all waits end, nothing is overwritten too early")
