"""Each field has a key of its own, and one can be destroyed without any other."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore.personal.key_tree import KeyTree

TICKETS = tuple(UUID(int=n) for n in range(3))
VERSIONS = (1, 2, 15, 16, 17, 4095, 4096, 65535, 65536, 65537)
PATHS = ("/data/subject", "/data/body", "/command/fingerprint")
PLACES = [(ticket, version) for ticket in TICKETS for version in VERSIONS]
ALL = [(ticket, version, path) for ticket, version in PLACES for path in PATHS]


def keys(tree):
    return {leaf: tree.key(*leaf) for leaf in ALL}


@given(
    st.lists(
        st.tuples(st.sampled_from(PLACES), st.sets(st.sampled_from(PATHS), min_size=1)),
        max_size=8,
    ),
    st.randoms(use_true_random=False),
)
def test_what_is_destroyed_is_gone_and_all_else_stays(redactions, random):
    """Whatever the order in which they are asked for, stored in between, and destroyed twice."""
    tree = KeyTree.new()
    before = keys(tree)
    gone = set()
    for (ticket, version), paths in redactions:
        left = [path for path in PATHS if path not in paths]
        tree = KeyTree.read(tree.without(ticket, version, paths, left).stored())
        gone |= {(ticket, version, path) for path in paths}
    shuffled = random.sample(ALL, len(ALL))
    after = {leaf: tree.key(*leaf) for leaf in shuffled}
    assert after == {leaf: None if leaf in gone else before[leaf] for leaf in ALL}
    for (ticket, version), paths in redactions:
        left = [path for path in PATHS if path not in paths]
        assert tree.without(ticket, version, paths, left).secrets == tree.secrets


def test_no_two_fields_and_no_two_trees_share_a_key():
    found = [key for _ in range(3) for key in keys(KeyTree.new()).values()]
    assert len({*found}) == len(found) == 3 * len(ALL)


def test_what_a_redaction_adds_is_bounded():
    """15 secrets on each of 16 levels, and its other fields; fewer where two share a way."""
    tree = KeyTree.new()
    one = tree.without(TICKETS[0], 1, ["/data/body"], ["/data/subject"])
    assert len(one.secrets) == 1 + 16 * 15 + 1
    two = one.without(TICKETS[0], 2, ["/data/body"], [])
    assert len(two.secrets) == len(one.secrets) - 1  # its neighbour, of which nothing is left


@pytest.mark.parametrize(
    "stored",
    [
        *({}, [], None, {"steps": ["ways"]}, {"steps": ["ways"], "secrets": 1}),
        *({"steps": ["ways"], "secrets": "AAAA"}, {"steps": [""], "secrets": "A" * 43 + "="}),
    ],
)
def test_what_is_no_tree_is_refused(stored):
    with pytest.raises(ValueError, match="no tree"):
        KeyTree.read(stored)
