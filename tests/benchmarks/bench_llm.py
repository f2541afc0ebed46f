"""The writers on the whole test split, and what batching, LoRA and upper layers save.

`make bench ONLY=llm`, after `make run`. Takes a copy of the demo run, has every writer write for every test film, and
holds the texts, as written and as verified, against the reference reports. About ten minutes on two cores. The copy
stays in outputs/bench/llm_run, and what is up to date in it is not made again.
"""

import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import OUT, Bench

from cliniqure_utils import metrics
from cliniqure_utils.course import chain
from cliniqure_utils.reports import texts_by_system
from cliniqure_utils.runs import read_jsonl, write_json
from cliniqure_utils.writer import base_model, batches, fine_tuning, generation, lora, upper

DEMO = Path(__file__).parents[2] / "outputs" / "demo"
COPY = OUT / "llm_run"
MODELS = DEMO.parents[1] / "data" / "models"
BATCH = 24
CHANGES = {
    "06_generate_report.n_films": None,
    "06_generate_report.n_films_seq_cls": 10_000,
    "06_generate_report.batch_size": BATCH,
}
PAIRS = (
    ("causal_lm", "base"), ("seq_cls", "base"), ("causal_lm_pretrained", "causal_lm"),
    ("causal_lm_pretrained", "template"), ("causal_lm", "template"),
)  # fmt: skip


def write_all() -> float:
    """Notebook 06 for all test films of a copy of the demo run; seconds."""
    if not (DEMO / "05_finetune_llm" / "metrics.json").is_file():
        raise SystemExit("outputs/demo is not finished: run `make run` first")
    COPY.mkdir(parents=True, exist_ok=True)
    for folder in sorted(DEMO.glob("0[1-5]_*")):
        shutil.rmtree(COPY / folder.name, ignore_errors=True)
        shutil.copytree(folder, COPY / folder.name)
    started = time.perf_counter()
    chain.run_chain(run_dir=COPY, overrides=CHANGES, start="06", until="06")
    return time.perf_counter() - started


def table(kind: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(one row per writer, one row per paired difference) of the texts of one kind, "text" or "verified"."""
    films = [row["image_id"] for row in read_jsonl(COPY / "06_generate_report" / "prompts.jsonl")]
    texts = texts_by_system(read_jsonl(COPY / "06_generate_report" / "reports.jsonl"), films, kind)
    references = {r["image_id"]: r["text"] for r in read_jsonl(COPY / "01_preprocess" / "reference_reports.jsonl")}
    asked = [references[i] for i in films]
    errors = {
        s: metrics.report_errors(references=asked, predictions=list(written.values())) for s, written in texts.items()
    }
    scores = {s: {"films": len(films), **metrics.error_rates(found)} for s, found in errors.items()}
    differences = [
        {"pair": f"{one} - {other}", **metrics.paired_error_difference(errors[one], errors[other])}
        for one, other in PAIRS
    ]
    return pd.DataFrame(scores).T, pd.DataFrame(differences)


def writing_speeds() -> dict[str, float]:
    """Tokens per second of each system, as notebook 06 measured and printed them over all its films."""
    cells = json.loads((COPY / "notebooks" / "06_generate_report.ipynb").read_text(encoding="utf-8"))["cells"]
    printed = "".join(line for cell in cells for out in cell.get("outputs", []) for line in out.get("text", []))
    (line,) = re.findall(r"^tokens per second: (.+)$", printed, re.MULTILINE)
    return {name: float(value) for name, value in (part.rsplit(" ", 1) for part in line.split(", "))}


def bench_generation(bench: Bench) -> None:
    """Tokens per second of one prompt at a time and of batches, same model, same prompts."""
    model, tokenizer, _ = base_model.load_base(base_model.PACKAGED, MODELS)
    model = lora.load_adapter(model, COPY / "05_finetune_llm" / "adapter" / "causal_lm")
    prompts = [r["prompt"] for r in read_jsonl(COPY / "06_generate_report" / "prompts.jsonl")][:48]
    speeds, texts = {}, {}
    for batch in (1, 8, 16, 48):
        started = time.perf_counter()
        texts[batch] = generation.generate(model, tokenizer, prompts, 80, batch, description=f"batch {batch}")
        seconds = time.perf_counter() - started
        speeds[batch] = sum(len(tokenizer(text).input_ids) for text in texts[batch]) / seconds
        bench.state(f"generation, batch {batch}", "tokens/s", speeds[batch])
    for batch in (8, 16, 48):
        bench.state(f"batch {batch} against one at a time", "times", speeds[batch] / speeds[1])
        same = np.mean([a == b for a, b in zip(texts[1], texts[batch], strict=True)])
        bench.state(f"same text as alone, batch {batch}", "share", float(same))


def bench_lora(bench: Bench) -> None:
    """A training step of four texts: every weight; LoRA in all layers; in the last ten; those with states kept."""
    prompts = [r["prompt"] for r in read_jsonl(COPY / "06_generate_report" / "prompts.jsonl")][:4]
    seconds = {}
    for name, n_layers in (("every weight", 0), ("LoRA, all layers", None), ("LoRA, last 10 layers", 10)):
        model, tokenizer, _ = base_model.load_base(base_model.PACKAGED, MODELS)
        items, _ = batches.encode_pairs(tokenizer, [(prompt, "The heart is enlarged. " * 6) for prompt in prompts], 256)
        model = model if n_layers == 0 else lora.add_lora(model, "causal_lm", n_layers=n_layers)
        cost = fine_tuning.step_cost(model, tokenizer, items, n_steps=4)
        bench.state(f"{name}: trained weights", "millions", cost["trainable"] / 1e6)
        bench.state(f"{name}: held between steps", "MB", cost["weights"] + cost["gradients"] + cost["optimizer"])
        bench.state(f"{name}: step of 4", "s", cost["seconds"])
        seconds[name] = cost["seconds"]
    first = upper.first_trained_layer(model)
    started = time.perf_counter()
    kept = upper.with_states(model, items, first)
    bench.state("frozen layers, once for these 4", "s", time.perf_counter() - started)
    seconds["states kept"] = seconds_of_a_step(model, kept, first)
    bench.state("LoRA, last 10 layers, states kept: step of 4", "s", seconds["states kept"])
    for name in ("LoRA, all layers", "LoRA, last 10 layers"):
        bench.state(f"states kept against {name}", "times", seconds[name] / seconds["states kept"])


def seconds_of_a_step(model, kept: list[dict], first: int, n_steps: int = 4) -> float:
    """Mean of `n_steps` steps of the upper layers, after one that warms up."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    batch = batches.answers_only(upper.pad_states(kept))
    with upper.upper_layers(model, first):
        for step in range(n_steps + 1):
            if step == 1:
                started = time.perf_counter()
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
        return (time.perf_counter() - started) / n_steps


def main() -> None:
    bench = Bench("llm")
    torch.manual_seed(0)
    bench.state("06_generate_report, all films", "s", write_all())
    for name, speed in writing_speeds().items():
        bench.state(f"{name}, batches of {BATCH}", "tokens/s", speed)
    tables = {}
    for kind in ("text", "verified"):
        systems, differences = table(kind)
        with pd.option_context("display.width", 160, "display.max_columns", None):
            print(f"whole test split, {'as written' if kind == 'text' else kind}")
            print(systems.round(3).to_string())
            print(differences.round(3).to_string(index=False))
        plain = systems.astype(object).where(systems.notna(), None).to_dict("index")
        tables[kind] = {"systems": plain, "pairs": differences.to_dict("records")}
    write_json(OUT / "llm_systems.json", tables)
    bench_generation(bench)
    bench_lora(bench)
    bench.write()


if __name__ == "__main__":
    main()
