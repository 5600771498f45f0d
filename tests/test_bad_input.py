"""What happens to rubbish: it is refused with a reason, and nothing has changed (L12)."""

from collections import Counter

from tests.bad_input import ALL
from tests.test_api import OPEN, serving


async def state(database):
    """Give all that is kept, but for the key that signs cursors, which is made when needed."""
    names = sorted(await database.client[database.name].list_collection_names())
    return {
        name: await database.collection(name).find().to_list()
        for name in names
        if name != "secrets" and not name.startswith("system.")
    }


async def test_bad_input_is_refused_with_a_reason_and_changes_nothing(database):
    """L12: hundreds of kinds, each a 4xx problem document that says what to mend."""
    assert len(ALL) >= 300
    assert max(Counter((b.method, b.path, b.content, str(b.headers)) for b in ALL).values()) == 1
    wrong = []
    async with serving(database, project=False) as client:
        ticket = (await client.post("/tickets", json=OPEN)).json()["ticket_id"]
        before = await state(database)
        for bad in ALL:
            path = bad.path.replace("{ticket}", ticket)
            answer = await client.request(
                bad.method, path, content=bad.content, headers=bad.headers
            )
            told = answer.headers.get("content-type"), answer.status_code
            problem = answer.json() if told[0] == "application/problem+json" else {}
            found = (*told, problem.get("code"), bool(problem.get("detail")))
            if found != ("application/problem+json", bad.status, bad.code, True):
                wrong.append((bad.method, path[:80], bad.content[:80], bad.headers, found))
        after = await state(database)
    assert wrong == []
    assert {name for name in after if after[name] != before.get(name)} == set()
