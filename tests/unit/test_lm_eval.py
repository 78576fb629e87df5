"""lm-evaluation-harness on the shipped models, with local tasks and without a network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

lm_eval = pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.registry import get_model  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

import starr_engine.study.lm_eval  # noqa: E402, F401  # registers the model
from starr_engine import LLM, SamplingParams  # noqa: E402
from starr_engine.cli.main import main  # noqa: E402
from starr_engine.errors import ConfigError, RequestError  # noqa: E402
from starr_engine.study.grid.job import StudyJob  # noqa: E402
from starr_engine.study.grid.questions import is_right  # noqa: E402
from starr_engine.study.grid.read import make_grid  # noqa: E402
from starr_engine.study.grid.run import run_study  # noqa: E402
from starr_engine.study.likelihood.scorer import LikelihoodScorer, Question  # noqa: E402
from starr_engine.study.lm_eval.arguments import parse_arguments  # noqa: E402
from starr_engine.study.lm_eval.generation import parse_generation  # noqa: E402
from starr_engine.study.lm_eval.model import StarrEngineLM  # noqa: E402
from starr_engine.study.lm_eval.registration import register  # noqa: E402
from tests.helpers.harness_tasks import NUM_PROBLEMS, UNTIL, problems, write_task, write_tasks  # noqa: E402

MODELS = ("tiny-llada", "tiny-sdar")
FAST: dict[str, Any] = {"remasking": "threshold", "num_threads": 1, "mc_samples": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("harness") / "tasks")


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> StarrEngineLM:
    return StarrEngineLM(model=request.param, batch_size=4, device="cpu", **FAST)


def evaluate(folder: Path, tasks: list[str], **options: Any) -> dict[str, Any]:
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found: dict[str, Any] = lm_eval.simple_evaluate(
        tasks=list(tasks), task_manager=manager, bootstrap_iters=0, **options
    )
    return found


def generate(model: StarrEngineLM, *requests: tuple[str, dict[str, Any]]) -> list[str]:
    instances = [Instance("generate_until", {}, request, 0) for request in requests]
    texts: list[str] = model.generate_until(instances, disable_tqdm=True)
    return texts


@pytest.mark.parametrize("name", MODELS)
def test_accuracy_is_that_of_our_own_scoring_whatever_the_batch(folder, name):
    arguments = {"model": name, "cache": "none", **FAST}
    found = evaluate(folder, ["tiny_generate"], model="starr_engine", model_args=arguments,
                     batch_size=4, device="cpu")  # fmt: skip
    params = SamplingParams(max_tokens=64, cache="none", remasking="threshold", stop=(UNTIL,))
    outputs = LLM(name, num_threads=1, device="cpu").generate(
        [each.prompt for each in problems()], params
    )
    texts = [output.text for output in outputs]
    samples = found["samples"]["tiny_generate"]
    assert [each["resps"][0][0] for each in samples] == texts
    solved = [is_right(text, [each.reference], "exact")
              for text, each in zip(texts, problems(), strict=True)]  # fmt: skip
    assert 0 < sum(solved) < NUM_PROBLEMS
    assert [bool(each["exact_match"]) for each in samples] == solved
    accuracy = found["results"]["tiny_generate"]["exact_match,none"]
    assert accuracy == pytest.approx(sum(solved) / NUM_PROBLEMS)
    totals = found["config"]["starr_engine"]["totals"]
    assert totals["generated"] == NUM_PROBLEMS
    assert totals["nfe"] == sum(output.nfe for output in outputs)
    unmasked = sum(output.num_unmasked for output in outputs)
    assert totals["tokens_per_forward"] == pytest.approx(unmasked / totals["nfe"])
    assert totals["cache_labels"] == ["exact"]


def test_choices_are_those_of_the_likelihood(folder, model):
    found = evaluate(folder, ["tiny_choose"], model=model, limit=4)
    samples = found["samples"]["tiny_choose"]
    assert len(samples) == 4
    scorer = LikelihoodScorer(model.llm.engine, samples=8)
    tokenizer = model.llm.tokenizer
    for sample in samples:
        asked = []
        for context, answer in sample["arguments"]:
            front = tokenizer.encode(context)
            whole = tokenizer.encode(context + answer)
            asked.append(Question(context=tuple(front), answer=tuple(whole[len(front) :])))
        values = [each.log_likelihood for each in scorer.score(asked)]
        # One test compares many batches; a row's rounding may depend on its neighbours'.
        assert [pair[0][0] for pair in sample["resps"]] == pytest.approx(values, abs=1e-3)
        assert sample["acc"] == float(values.index(max(values)) == sample["doc"]["gold"])
    accuracy = found["results"]["tiny_choose"]["acc,none"]
    assert accuracy == pytest.approx(sum(each["acc"] for each in samples) / 4)


@pytest.mark.parametrize("name", MODELS)
def test_a_text_is_scored_in_windows_of_the_models_length(folder, name):
    model = StarrEngineLM(model=name, max_model_len=64, device="cpu", **FAST)
    found = evaluate(folder, ["tiny_text"], model=model, limit=1)
    assert found["results"]["tiny_text"]["bits_per_byte,none"] > 0
    text = " ".join(each.prompt for each in problems()[:5])
    ids = model.tok_encode(text)
    assert len(ids) > model.max_length
    [got] = model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)], True)
    first = model.max_length - 1
    windows = [
        Question(context=(model.prefix_token_id,), answer=tuple(ids[:first])),
        Question(context=tuple(ids[len(ids) - first - 1 : first]), answer=tuple(ids[first:])),
    ]
    scores = LikelihoodScorer(model.llm.engine, samples=8, check_greedy=False).score(windows)
    assert got == pytest.approx(sum(each.log_likelihood for each in scores), rel=1e-4)


def test_a_chat_template_is_the_checkpoints_own(folder, model):
    model.tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<answer>{% endif %}"
    )
    found = evaluate(folder, ["tiny_generate"], model=model, limit=1, apply_chat_template=True)
    [sample] = found["samples"]["tiny_generate"]
    assert sample["arguments"][0][0] == f"<user>{problems()[0].prompt}<answer>"
    history = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "so"}]
    assert model.apply_chat_template(history, add_generation_prompt=False) == "<user>q<assistant>so"
    model.tokenizer.chat_template = None
    with pytest.raises(RequestError, match="no chat template"):
        model.apply_chat_template(history)


def test_tasks_decide_length_ends_and_sampling(model):
    prompt, tokenizer = problems()[0].prompt, model.llm.tokenizer
    [whole] = generate(model, (prompt, {"until": [], "max_gen_toks": 32}))
    stop = whole[len(whole) // 2 :][:2]
    [cut] = generate(model, (prompt, {"until": [stop], "max_gen_toks": 32}))
    assert cut == whole[: whole.index(stop)]
    sampled = {"until": [], "max_gen_toks": 16, "do_sample": True, "temperature": 5.0}
    one, two, other = generate(model, (prompt, sampled), (prompt, sampled), ("Sort: 3 1", sampled))
    assert one != two, "repeats of one request differ"
    assert generate(model, (prompt, sampled))[0] == one
    assert generate(model, ("Sort: 3 1", sampled))[0] == other
    # A prompt without room loses its beginning.
    long = " ".join([prompt] * 60)
    assert len(model.tok_encode(long)) > model.max_length
    assert len(generate(model, (long, {"until": [], "max_gen_toks": 32}))) == 1
    wanted = parse_generation({"until": ["<|endoftext|>", "Q:"], "do_sample": True}, tokenizer, 99)
    assert wanted.max_gen_toks == 99
    assert wanted.overrides == {
        "temperature": 1.0, "stop_token_ids": (model.eot_token_id,), "stop": ("Q:",)
    }  # fmt: skip
    neutral = {"num_beams": 1, "use_cache": True, "length_penalty": 1.0}
    assert parse_generation(neutral, tokenizer, 9).overrides == {}


@pytest.mark.parametrize(
    ("kwargs", "part"),
    [
        ({"num_beams": 4}, "there are no beams"),
        ({"top_pp": 0.5}, "did you mean 'top_p'"),
        ({"n": 2}, "repeats requests itself"),
        ({"top_p": 2.0}, "top_p must be"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_reason(model, kwargs, part):
    with pytest.raises(RequestError, match=part):
        generate(model, ("Sort: 3 1", {"until": [], "max_gen_toks": 8, **kwargs}))


def test_a_cached_answer_is_found_again(folder, model, tmp_path):
    once = evaluate(folder, ["tiny_generate", "tiny_choose"], model=model, limit=2,
                    use_cache=str(tmp_path / "cache"))  # fmt: skip
    before = model.totals.to_plain()
    again = evaluate(folder, ["tiny_generate", "tiny_choose"], model=model, limit=2,
                     use_cache=str(tmp_path / "cache"))  # fmt: skip
    assert model.totals.to_plain() == before
    assert again["results"] == once["results"]


def test_arguments_reach_the_engine_and_its_policies():
    found = parse_arguments(
        {"pretrained": "m", "cache": "dual", "cache.refresh_every": 4, "dtype": "float32",
         "remasking": "threshold", "remasking.threshold": 0.8, "mc_samples": 3, "seed": 5},
        batch_size="8", device="cpu",
    )  # fmt: skip
    assert found.engine == {
        "device": "cpu", "max_num_requests": 8, "model": "m", "dtype": "float32"
    }  # fmt: skip
    assert found.sampling == {
        "cache": "dual", "cache_args": {"refresh_every": 4}, "seed": 5,
        "remasking": "threshold", "remasking_args": {"threshold": 0.8},
    }  # fmt: skip
    assert found.mc_samples == 3
    # The harness reads the word none as None.
    assert parse_arguments({"cache": None}).sampling == {"cache": "none"}
    assert parse_arguments({}, batch_size="auto:4").engine == {}
    assert parse_arguments({}, batch_size="auto", max_batch_size=64).engine == {
        "max_num_requests": 64
    }
    model = get_model("starr_engine").create_from_arg_string(
        "model=tiny-sdar,cache=none,remasking=threshold,remasking.threshold=0.7,num_threads=1",
        {"batch_size": 2, "device": "cpu", "max_batch_size": None},
    )
    assert model.llm.engine.config.max_num_requests == 2
    info = model.get_model_info()["starr_engine"]
    assert (info["cache"], info["remasking_args"]) == ("none", {"threshold": 0.7})


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"cashe": "dual"}, "did you mean 'cache'"),
        ({"model": "a", "pretrained": "b"}, "two words"),
        ({"cache.k": 1, "cache_args": {"k": 2}}, "both given"),
        ({"mc_samples": 0}, "mc_samples must be"),
        ({"max_tokens": 5}, "unknown model argument 'max_tokens'"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(given, part):
    with pytest.raises(ConfigError, match=part):
        parse_arguments(given)


def test_the_command_hands_on_everything(monkeypatch, capsys):
    seen: list[list[str]] = []
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", lambda: seen.append(list(sys.argv)))
    before = list(sys.argv)
    assert main(["lm-eval", "--model", "starr_engine", "--help"]) == 0
    assert main(["lm-eval", "ls", "tasks"]) == 0
    assert seen == [["lm-eval", "--model", "starr_engine", "--help"], ["lm-eval", "ls", "tasks"]]
    assert sys.argv == before
    register()  # a second time changes nothing
    monkeypatch.setitem(sys.modules, "lm_eval.models", None)
    assert main(["lm-eval", "ls", "tasks"]) == 2
    assert "pip install 'starr-engine[lm-eval]'" in capsys.readouterr().err


def test_a_study_takes_the_prompts_and_the_verdicts_of_a_task(folder, tmp_path, monkeypatch):
    write_task(folder, "tiny_filtered", {
        "output_type": "generate_until", "doc_to_target": "{{reference}}",
        "generation_kwargs": {"until": [","], "max_gen_toks": 32},
        "filter_list": [{"name": "first", "filter": [{"function": "take_first"}]}],
        "metric_list": [{"metric": "bleu"}],
    })  # fmt: skip
    tasks = [
        "lm_eval:tiny_generate", {"file": str(folder / "rows.jsonl"), "name": "the same"},
        {"lm_eval": "tiny_generate", "num_fewshot": 1, "name": "shown one"},
        "lm_eval:tiny_choose", "lm_eval:tiny_filtered",
        {"lm_eval": "tiny_filtered", "filter": "last", "name": "last"}, "lm_eval:no_such_task",
    ]  # fmt: skip
    # The list of the harness's own tasks takes seconds to make.
    monkeypatch.setattr(
        "starr_engine.study.lm_eval.task._manager",
        lambda path: TaskManager(include_path=str(folder), include_defaults=False),
    )
    grid = make_grid({
        "tasks": tasks, "include_path": "tasks", "caches": ["none"], "remasking": ["threshold"],
        "max_tokens": [64], "engine": {"num_threads": 1, "device": "cpu"},
    }, folder.parent)  # fmt: skip
    results = run_study(StudyJob(grids=(grid,), folder=tmp_path / "out"))
    harness, file, shown, choose, bleu, last, unknown = results
    assert harness.measured is not None and file.measured is not None
    assert harness.measured.solved == file.measured.solved
    assert harness.measured.outputs[:3] == file.measured.outputs[:3]
    assert harness.measured.outputs != file.measured.outputs, "only one has the task's stop string"
    assert "1" in harness.measured.solved and "0" in harness.measured.solved
    assert shown.measured is not None
    assert shown.measured.prompt_tokens > 1.5 * harness.measured.prompt_tokens
    for result, part in [
        (choose, "a task of multiple_choice, and a study measures how texts are generated"),
        (bleu, "neither 0 nor 1"),
        (last, "has no filter 'last'; it has first"),
        (unknown, "has no such task"),
    ]:
        assert part in (result.error or "")


def test_a_task_of_the_harness_is_known_by_what_its_folder_holds(tmp_path):
    ids = []
    for name in ("a", "b"):
        write_tasks(tmp_path / name)
        for file in (tmp_path / name).glob("*.yaml"):
            file.write_text(file.read_text().replace(str(tmp_path / name), "here"))
        content = {"tasks": "lm_eval:tiny_generate", "include_path": name}
        ids.append([cell.id for cell in make_grid(content, tmp_path).cells()])
    assert ids[0] == ids[1]
    (tmp_path / "b" / "tiny_generate.yaml").write_text("task: tiny_generate")
    cells = list(
        make_grid({"tasks": "lm_eval:tiny_generate", "include_path": "b"}, tmp_path).cells()
    )
    assert cells[0].id not in ids[0]
    assert type(cells[0]).from_plain(cells[0].to_plain()) == cells[0]
    chat = make_grid({"tasks": f"lm_eval:x:chat=true,include_path={tmp_path / 'b'}"}).tasks[0]
    assert chat.harness is not None and chat.harness.chat
    assert str(chat) == f"lm_eval:x:include_path={tmp_path / 'b'},chat=true"
    for wrong, part in [
        ("lm_eval:x:chat=maybe", "chat must be true or false"),
        ("lm_eval:x:num_fewshot=-1", "num_fewshot must be"),
        ("lm_eval:x:shots=1", "unknown entry of a task 'shots'"),
        ("lm_eval:x:include_path=missing", "is no folder"),
    ]:
        with pytest.raises(ConfigError, match=part):
            make_grid({"tasks": wrong})
    with pytest.raises(ConfigError, match="num_fewshot for its own"):
        make_grid({"tasks": "lm_eval:x", "shots": 2})
