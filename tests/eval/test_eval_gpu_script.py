"""`scripts/eval_gpu`: what one call leaves is all that the next one needs, whatever machine it is on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROWS

ROOT = Path(__file__).parents[2]
RECIPE = """
model: MODEL
tasks:
  - {kind: qa, set: tales}
  - {kind: needle, lengths: [128], depths: [0.5], samples: 1}
answerers:
  - {kind: none}
  - {kind: tuned, steps: 2, batch: 2, lora: {rank: 2}}
  - kind: tuned
    steps: 1
    lora: {rank: 2}
    lessons: {kind: needle, split: train, lengths: [128], depths: [0.5], samples: 1}
"""


@pytest.mark.slow
@pytest.mark.timeout(900)  # a process for each step, which a busy machine starts slowly
def test_a_call_goes_on_from_what_the_last_one_left(tmp_path, data, tiny_decoder):
    decoder = tiny_decoder("llama")
    decoder.model.save_pretrained(tmp_path / "model")
    decoder.tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("MODEL", str(tmp_path / "model")))
    rows = [{**row, "text": f"Long ago. {row['text']}"} for row in ROWS]
    (data / "qa" / "tales.train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for split in ("train", "test"):
        path = data / "text" / f"books.{split}.jsonl"
        path.parent.mkdir(exist_ok=True)
        text = "".join(f"In the {split} year {i} the harbour froze. " for i in range(200))
        path.write_text(json.dumps({"doc_id": split, "text": text}) + "\n")
    bin_ = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}", "PREREAD_HOME": str(tmp_path / "home")}

    def call(kept: str, out: str, minutes: int) -> tuple[int, str]:
        (tmp_path / kept).mkdir(exist_ok=True)
        command = [ROOT / "scripts" / "eval_gpu", tmp_path / "recipe.yaml", data, tmp_path / kept, tmp_path / out]
        done = subprocess.run([*command, str(minutes)], env=environment, cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, done.stderr

    code, said = call("nothing", "first", 5)
    assert code == 0, said
    assert "tuning no context" in said
    assert [path.name for path in sorted((tmp_path / "first").iterdir())] == ["eval", "figures.jsonl", "kept.tar.gz.aa"]
    tables = json.loads((tmp_path / "first" / "eval" / "recipe.json").read_text())["tasks"]
    assert [table["label"] for table in tables] == ["tales", "needle, random"]
    unfit = [row["unfit"] for row in tables[1]["rows"]]
    assert unfit[0] is unfit[2] is None, "the adapter for needles was there for both tasks"
    code, said = call("first", "second", 5)
    assert code == 0, said
    assert "tuning no context" not in said
    assert json.loads((tmp_path / "second" / "eval" / "recipe.json").read_text())["tasks"] == tables
    code, said = call("second", "third", 0)
    assert code == 130, "no time, and it says so"
    assert [path.name for path in (tmp_path / "third").iterdir()] == ["kept.tar.gz.aa"], "and loses nothing"
