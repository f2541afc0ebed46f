"""The language models on the whole test split, and what batching and LoRA save.

`make bench ONLY=llm`, after `make run`. Takes a copy of the demo run, trains `causal_lm` for more than 100 steps and
`seq_cls` for twelve rounds over its rows, has every model write for every test film, and holds the texts against the
reference reports. About 25 minutes on two cores. The copy stays in
outputs/bench/llm_run, and what is up to date in it is not made again.
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
from cliniqure_utils.runs import read_jsonl, write_json
from cliniqure_utils.vocabulary import FINDINGS
from cliniqure_utils.writer import base_model, batches, fine_tuning, generation, lora

DEMO = Path(__file__).parents[2] / "outputs" / "demo"
COPY = OUT / "llm_run"
MODELS = DEMO.parents[1] / "data" / "models"
CAUSAL_STEPS, SEQ_CLS_STEPS, BATCH = 128, 375, 24
CHANGES = {
    "05_finetune_llm.causal_batch_size": 4,
    "05_finetune_llm.causal_steps": CAUSAL_STEPS,
    "05_finetune_llm.seq_cls_steps": SEQ_CLS_STEPS,
    "05_finetune_llm.learning_rate": 0.002,
    "06_generate_report.n_films": None,
    "06_generate_report.n_films_seq_cls": 10_000,
    "06_generate_report.max_new_tokens": 80,
    "06_generate_report.batch_size": BATCH,
}
SYSTEMS = ("base", "seq_cls", "causal_lm", "template")


def train_and_write() -> dict[str, float]:
    """Notebooks 05 and 06 on a copy of the demo run; seconds of each."""
    if not (DEMO / "05_finetune_llm" / "metrics.json").is_file():
        raise SystemExit("outputs/demo is not finished: run `make run` first")
    COPY.mkdir(parents=True, exist_ok=True)
    for folder in sorted(DEMO.glob("0[1-4]_*")):
        shutil.rmtree(COPY / folder.name, ignore_errors=True)
        shutil.copytree(folder, COPY / folder.name)
    seconds = {}
    for number, name in (("05", "05_finetune_llm"), ("06", "06_generate_report")):
        started = time.perf_counter()
        chain.run_chain(run_dir=COPY, overrides=CHANGES, start=number, until=number)
        seconds[name] = time.perf_counter() - started
    return seconds


def table() -> tuple[pd.DataFrame, pd.DataFrame]:
    """(one row per system, one row per paired difference to the base)."""
    rows = pd.DataFrame(list(read_jsonl(COPY / "06_generate_report" / "reports.jsonl")))
    references = {r["image_id"]: r["text"] for r in read_jsonl(COPY / "01_preprocess" / "reference_reports.jsonl")}
    texts = {s: rows[rows.system == s].set_index("image_id").text for s in SYSTEMS}
    films = sorted(texts["base"].index)
    asked = [references[i] for i in films]
    written = {s: [texts[s][i] for i in films] for s in SYSTEMS}
    errors = {s: metrics.report_errors(references=asked, predictions=written[s]) for s in SYSTEMS}
    bert = metrics.bert_scores_by_system(references=asked, predictions=written)
    scores = {
        s: {"films": len(films), "bertscore_f1": bert[s].raw["f1"], **metrics.error_rates(errors[s]),
            **errors[s][["there", "said", "sided"]].sum().to_dict()}
        for s in SYSTEMS
    }  # fmt: skip
    pairs = [(s, "base") for s in SYSTEMS[1:]] + [("causal_lm", "template")]
    differences = []
    for one, other in pairs:
        for rate in (metrics.FINDING_F1, *metrics.RATES):
            found = metrics.paired_error_difference(errors[one], errors[other], rate)
            differences.append({"pair": f"{one} - {other}", "rate": rate, **found})
        found = metrics.paired_difference(bert[one].pairs["f1"], bert[other].pairs["f1"])
        means = {"a": scores[one]["bertscore_f1"], "b": scores[other]["bertscore_f1"]}
        differences.append({"pair": f"{one} - {other}", "rate": "bertscore_f1", **means, **found})
    return pd.DataFrame(scores).T, pd.DataFrame(differences).drop(columns="p")


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
    """Figure 3 with numbers: a training step with LoRA and with every weight trained."""
    pairs = [(r["prompt"], "The heart is enlarged. " * 6) for r in
             read_jsonl(COPY / "06_generate_report" / "prompts.jsonl")][:4]  # fmt: skip
    for name in ("LoRA", "every weight"):
        model, tokenizer, _ = base_model.load_base(base_model.PACKAGED, MODELS)
        items, _ = batches.encode_pairs(tokenizer, pairs, 256)
        model = lora.add_lora(model, "causal_lm") if name == "LoRA" else model
        cost = fine_tuning.step_cost(model, tokenizer, items, n_steps=4)
        bench.state(f"{name}: trained weights", "millions", cost["trainable"] / 1e6)
        bench.state(f"{name}: held between steps", "MB", cost["weights"] + cost["gradients"] + cost["optimizer"])
        bench.state(f"{name}: step of 4", "s", cost["seconds"])


def main() -> None:
    bench = Bench("llm")
    torch.manual_seed(0)
    for name, seconds in train_and_write().items():
        bench.state(name, "s", seconds)
    own = json.loads((COPY / "05_finetune_llm" / "metrics.json").read_text(encoding="utf-8"))
    bench.state(f"seq_cls accuracy after {SEQ_CLS_STEPS} steps", "share", own["llm/seq_cls_accuracy_seen"])
    bench.state("chance", "share", own["llm/seq_cls_chance"])
    for name, speed in writing_speeds().items():
        bench.state(f"{name}, batches of {BATCH}", "tokens/s", speed)
    systems, differences = table()
    with pd.option_context("display.width", 160, "display.max_columns", None):
        print(f"whole test split, causal_lm after {CAUSAL_STEPS} steps, {len(FINDINGS)} findings")
        print(systems.round(3).to_string())
        print(differences.round(3).to_string(index=False))
    plain = systems.astype(object).where(systems.notna(), None).to_dict("index")
    pairs = differences.astype(object).where(differences.notna(), None).to_dict("records")
    write_json(OUT / "llm_systems.json", {"systems": plain, "pairs": pairs})
    bench_generation(bench)
    bench_lora(bench)
    bench.write()


if __name__ == "__main__":
    main()
