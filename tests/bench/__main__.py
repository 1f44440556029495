"""How fast one machine answers: `make bench`. Figures are of this run on this machine; compare ratios, not runs.

Starts the embedded stack, then measures the direct message with the offline model and one tool call: one after the
other (p50, p95), and many sessions at once (messages a second), with the CPU that API and worker take for each.
"""

import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from worker_space_local.issuer import sign_token
from worker_space_local.stack import Stack

ONE_BY_ONE = 100
AT_ONCE, EACH = 8, 20


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class Client:
    """One user with one project and a file to analyse."""

    def __init__(self, stack: Stack) -> None:
        token = sign_token(stack.data_dir, "bench", 3600)
        self.http = httpx.Client(
            base_url=stack.endpoints["api"], headers={"authorization": f"Bearer {token}"}, timeout=60
        )
        self.base = "/my/projects/bench"
        self.http.post("/my/projects/", json={"id": "bench", "name": "Bench"}).raise_for_status()
        body = {"max_concurrency": 10}
        self.http.patch(f"{self.base}/agents/analyst", json=body).raise_for_status()
        self.http.put(f"{self.base}/files/main.py", content=b'"""Says hi."""\n\nprint("hi")\n').raise_for_status()

    def session(self) -> str:
        answer = self.http.post(f"{self.base}/chat/sessions/", json={}).raise_for_status()
        return str(answer.json()["id"])

    def ask(self, session: str) -> float:
        """Seconds until the answer."""
        body = {"content": "Analyse main.py", "target_agent": "analyst"}
        began = time.perf_counter()
        answer = self.http.post(f"{self.base}/chat/{session}/message/", json=body)
        taken = time.perf_counter() - began
        assert answer.status_code == 200, answer.text
        assert "Says hi" in answer.text, answer.text
        return taken


def main() -> None:
    """Print the figures."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Stack(data_dir=folder, say=lambda line: None, environment={**os.environ}) as stack,
    ):
        client = Client(stack)
        session = client.session()
        for _ in range(10):
            client.ask(session)
        before = {name: cpu_seconds(stack.pid(name)) for name in ("api", "worker", "aws")}
        times = [client.ask(session) * 1000 for _ in range(ONE_BY_ONE)]
        print(f"direct message, offline model, one tool call, {ONE_BY_ONE} one after the other:")
        print(f"  p50 {statistics.median(times):.0f} ms   p95 {percentile(times, 0.95):.0f} ms")
        for name, seconds in before.items():
            print(f"  CPU {name}: {(cpu_seconds(stack.pid(name)) - seconds) / ONE_BY_ONE * 1000:.1f} ms a message")
        sessions = [client.session() for _ in range(AT_ONCE)]
        began = time.perf_counter()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda each: [client.ask(each) for _ in range(EACH)], sessions))
        taken = time.perf_counter() - began
        print(f"{AT_ONCE} sessions at once, {EACH} messages each: {AT_ONCE * EACH / taken:.0f} messages a second")
        client.http.close()


if __name__ == "__main__":
    main()
