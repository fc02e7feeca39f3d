"""Reports: the statistics are rliable's, other people's tables are read, and documents quote what results give."""

import csv
import re

import numpy as np
import pytest

pytest.importorskip("rliable", reason="the 'suite' extra is not installed")

from rliable import library, metrics

from experiments.report import DOCUMENTS, curves_of_others, main
from experiments.reports import statistics
from experiments.reports.quoted import QUOTED, table, update_documents, with_tables
from experiments.reports.report_figures import aggregate_figure
from experiments.reports.report_text import final_table, improvement_table
from experiments.reports.scores import COLUMNS, agents_of, common_step, read_curves
from experiments.reports.statistics import interquartile_mean, probability_of_improvement, returns_at_end, scores_of
from experiments.reports.study_text import medians_table, ratios_table, seeds_table, targets_table
from experiments.training.errors import UsageError


@pytest.fixture(autouse=True)
def few_repetitions(request, monkeypatch):
    if "committed" not in request.node.name:
        monkeypatch.setattr(statistics, "REPETITIONS", 100)


ENVIRONMENTS = {"Hopper-v5": 3_000.0, "Pendulum-v1": -200.0}


def write(path, agents, environments=ENVIRONMENTS, seeds=3, metric="avg_return", steps=(100, 200, 300)):
    """Tables in which an agent's return is the environment's, its factor and its seed."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", *COLUMNS])
        for agent, factor in agents.items():
            for environment, value in environments.items():
                for seed in range(seeds):
                    for step in steps:
                        value_here = value + abs(value) * (factor * step / steps[-1] + 0.1 * seed)
                        writer.writerow([0, agent, environment, f"{seed}.0", metric, step, value_here])
    return path


def test_curves_end_where_all_seeds_have_been(tmp_path):
    path = write(tmp_path / "a.csv", dict(flow=1.0))
    with open(path, "a") as file:
        file.write("0,flow,Hopper-v5,0,avg_return,400,9\n0,flow,Hopper-v5,0,sampled,500,9\n")
    curves = read_curves(path, "avg_return")
    assert curves["flow", "Hopper-v5"].steps.tolist() == [100, 200, 300]
    assert curves["flow", "Hopper-v5"].at(300) == pytest.approx([6_000, 6_300, 6_600])
    assert common_step(curves, "Hopper-v5") == 300


def test_what_was_not_measured_is_no_return_and_what_cannot_be_compared_is_said(tmp_path, capsys):
    path = write(tmp_path / "a.csv", dict(flow=1.0))
    with open(path, "a") as file:
        file.write("0,flow,Hopper-v5,3,avg_return,100,\n0,flow,Hopper-v5,4,avg_return,100,nan\n")
        file.write("0,flow,Hopper-v5,0,avg_return,400,nan\n0,flow,Hopper-v5,1,avg_return,400,\n")
        file.write("0,apart,Hopper-v5,0,avg_return,100,1\n0,apart,Hopper-v5,1,avg_return,200,1\n")
    curves = read_curves(path, "avg_return")
    assert curves["flow", "Hopper-v5"].steps.tolist() == [100, 200, 300]
    assert curves["flow", "Hopper-v5"].seeds == (0, 1, 2) and ("apart", "Hopper-v5") not in curves
    said = "the seeds of apart in Hopper-v5 were evaluated at no step in common: it is left out\n"
    assert capsys.readouterr().err == f"warning: {path}: {said}"


def test_what_is_no_table_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("step,reward\n1,2\n")
    with pytest.raises(UsageError, match="exp_name, env_name"):
        read_curves(tmp_path / "a.csv", "avg_return")
    with pytest.raises(UsageError, match="only avg_return"):
        read_curves(write(tmp_path / "b.csv", dict(flow=1.0)), "return")
    with pytest.raises(UsageError, match="cannot be read"):
        read_curves(tmp_path / "c.csv", "return")


def test_statistics_are_those_of_rliable(monkeypatch):
    scores = np.random.default_rng(0).normal(size=(5, 3, 4))
    estimate = interquartile_mean(scores)
    assert estimate.value == pytest.approx([metrics.aggregate_iqm(scores[..., i]) for i in range(4)])
    assert (estimate.low < estimate.value).all() and (estimate.value < estimate.high).all()
    assert interquartile_mean(scores).low.tolist() == estimate.low.tolist(), "the same table gives the same interval"
    monkeypatch.setattr(statistics, "REPETITIONS", 2_000)  # of a hundred an interval is not known to 0.05
    np.random.seed(0)  # rliable draws from NumPy's global generator
    for ours, baseline in (
        (scores[..., 0] + 0.5, scores[..., 1]),
        (scores[..., 0].round(), scores[:3, :, 1].round()),  # of which some are level
    ):
        likely = probability_of_improvement(list(ours.T), list(baseline.T))
        theirs = library.get_interval_estimates(
            dict(one=[ours, baseline]), lambda x, y: np.array([metrics.probability_of_improvement(x, y)]), reps=500
        )
        assert likely.value[0] == pytest.approx(theirs[0]["one"][0])
        assert [likely.low[0], likely.high[0]] == pytest.approx(theirs[1]["one"][:, 0], abs=0.05)
        assert 0 <= likely.low[0] < likely.value[0] < likely.high[0] <= 1


def test_environments_of_which_there_are_more_seeds_keep_them():
    one, other = np.array([0.0, 2.0]), np.array([1.0])
    likely = probability_of_improvement([one, np.full(9, 2.0)], [other, np.ones(4)])
    assert likely.value[0] == 0.75 and (likely.low[0], likely.high[0]) == (0.5, 1)


def test_an_improvement_is_claimed_of_three_seeds_where_there_are_as_many(tmp_path):
    curves = read_curves(write(tmp_path / "a.csv", {"flow": 2.0, "gaussian": 1.0}, seeds=4), "avg_return")
    few = read_curves(write(tmp_path / "b.csv", {"flow": 2.0, "gaussian": 1.0}, seeds=2), "avg_return")
    mixed = {key: few[key] if key[1] == "Hopper-v5" else curve for key, curve in curves.items()}
    assert improvement_table(mixed, {"gaussian": []}).splitlines()[-1].endswith("| Pendulum-v1 | 4 against 4 |")
    assert (
        improvement_table(few, {"gaussian": []}).splitlines()[-1].endswith("| Hopper-v5, Pendulum-v1 | 2 against 2 |")
    )
    more = read_curves(write(tmp_path / "b.csv", {"flow": 2.0, "gaussian": 1.0}, seeds=3), "avg_return")
    mixed = {key: more[key] if key[1] == "Hopper-v5" else curve for key, curve in curves.items()}
    assert (
        improvement_table(mixed, {"gaussian": []})
        .splitlines()[-1]
        .endswith("| Hopper-v5, Pendulum-v1 | 3 against 3, 4 against 4 |")
    )


def test_scores_are_zero_where_the_worst_began_and_one_where_the_baseline_ended(tmp_path):
    curves = read_curves(write(tmp_path / "a.csv", {"flow": 2.0, "gaussian": 1.0}), "avg_return")
    (flow, gaussian), environments = returns_at_end(curves, ["flow", "gaussian"])
    assert environments == list(ENVIRONMENTS)
    scores = scores_of(flow, curves, environments, "gaussian")
    assert scores_of(gaussian, curves, environments, "gaussian").mean(0) == pytest.approx([1, 1])
    begun, ended = 1 / 3, 1.1  # of the worst seed at its first evaluation, of the baseline's mean at its last
    assert scores[0] == pytest.approx([(2.0 - begun) / (ended - begun)] * 2), "also where returns are negative"


def test_a_baseline_that_gets_worse_has_no_score_and_is_improved_upon(tmp_path):
    curves = read_curves(write(tmp_path / "a.csv", {"flow": -1.0, "gaussian": -3.0}, seeds=4), "avg_return")
    row = improvement_table(curves, {"gaussian": []}).splitlines()[-1]
    assert row == "| flow | gaussian | 1.00 (1.00 to 1.00) | Hopper-v5, Pendulum-v1 | 4 against 4 |"
    assert aggregate_figure(curves, "gaussian") is None


def test_a_report_has_tables_pictures_and_a_page(tmp_path, capsys):
    table = write(tmp_path / "cheetah.csv", {"flow": 2.0, "gaussian": 1.0, "one": 1.5}, seeds=4)
    write(
        tmp_path / "cheetah_seconds.csv", {"flow": 2.0, "gaussian": 1.0, "one": 1.5}, metric="training_seconds", seeds=4
    )
    theirs = write(tmp_path / "theirs.csv", {"SimbaV2": 3.0, "other": 1.0}, {"Hopper-v4": 3_000.0})
    command = [str(table), "--theirs", f"{theirs}=SimbaV2, 2025", "--their-agents", "SimbaV2"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "cheetah_report.md").read_text()
    assert (
        "| Hopper-v5, 300 steps | Pendulum-v1, 300 steps |" in text and "| | better than | with probability |" in text
    )
    row = next(line for line in text.splitlines() if line.startswith("| flow | gaussian | 1.00 (1.00 to 1.00)"))
    assert row.endswith("| Hopper-v5, Pendulum-v1 | 4 against 4 |")
    page = (tmp_path / "out" / "cheetah_report.html").read_text()
    assert page.count("<table>") == 2 == page.count("data:image/png;base64,") and "<td>flow</td>" in page
    assert "<tr><th></th><th>better than</th>" in page and "<tr><td>flow</td><td>gaussian</td>" in page
    assert (tmp_path / "out" / "cheetah_curves.png").stat().st_size > 10_000
    assert (
        main([str(table), "--baseline", "sac"]) == 2 and "the agents are flow, gaussian, one" in capsys.readouterr().err
    )
    assert main([*command[:2], "theirs.csv"]) == 2 and "FILE=LABEL" in capsys.readouterr().err


def test_other_peoples_tables_have_labels_of_their_own_and_the_agents_that_are_asked_for(tmp_path):
    path = write(tmp_path / "lr=1.csv", {"SimbaV2": 3.0, "other": 1.0})
    theirs = curves_of_others([f"{path}=Theirs", f"{path}=Others"], ["other"])
    assert {label: agents_of(curves) for label, curves in theirs.items()} == {"Theirs": ["other"], "Others": ["other"]}
    assert agents_of(curves_of_others([f"{path}=Theirs"], None)["Theirs"]) == ["SimbaV2", "other"]
    for files, agents, message in (
        ([f"{path}=Theirs"] * 2, None, "called 'Theirs' already"),
        ([f"{path}=Theirs"], ["other", "SimbaV3"], "no table has 'SimbaV3'; the tables have SimbaV2, other"),
        ([], ["other"], "--theirs FILE=LABEL"),
        ([f"{path}="], None, "expected FILE=LABEL"),
    ):
        with pytest.raises(UsageError, match=message):
            curves_of_others(files, agents)


def test_small_returns_have_decimals(tmp_path):
    curves = read_curves(write(tmp_path / "a.csv", {"flow": 0.0, "other": 0.0577}, dict(A=0.7, B=7.0)), "avg_return")
    rows = final_table(curves).splitlines()[2:]
    assert rows[0].startswith("| flow | 0.770 (0.700 to 0.840), 3 seeds | 7.700 (")
    assert rows[1].startswith("| other | 0.810 (0.740 to 0.880), 3 seeds | 8.104 (")
    curves = read_curves(write(tmp_path / "a.csv", {"flow": 0.0}, dict(A=20.0, B=200.0)), "avg_return")
    assert final_table(curves).splitlines()[-1].startswith("| flow | 22.0 (20.0 to 24.0), 3 seeds | 220 (200 to 240)")


def test_steps_that_differ_by_the_number_of_environments_are_one(tmp_path):
    """Three side by side are evaluated at 102, 201 and 303 where one is at 100, 200 and 300."""
    curves = read_curves(write(tmp_path / "a.csv", {"flow": 2.0}), "avg_return")
    three = read_curves(write(tmp_path / "b.csv", {"gaussian": 1.0}, steps=(102, 201, 303)), "avg_return")
    assert common_step(curves | three, "Hopper-v5") == 303
    (flow, gaussian), environments = returns_at_end(curves | three, ["flow", "gaussian"])
    assert environments == list(ENVIRONMENTS)
    assert flow[:, 0] == pytest.approx([9_000, 9_300, 9_600])
    assert gaussian[:, 0] == pytest.approx([6_000, 6_300, 6_600])
    shorter = read_curves(write(tmp_path / "b.csv", {"gaussian": 1.0}, steps=(102, 201)), "avg_return")
    assert common_step(curves | shorter, "Hopper-v5") == 201, "not 300: that is an evaluation later"
    fewer = read_curves(write(tmp_path / "b.csv", {"gaussian": 1.0}, steps=(150, 300)), "avg_return")
    assert common_step(curves | fewer, "Hopper-v5") == 300
    fewer = read_curves(write(tmp_path / "b.csv", {"gaussian": 1.0}, steps=(150,)), "avg_return")
    assert common_step(curves | fewer, "Hopper-v5") == 0


def test_environments_without_a_common_step_are_said(tmp_path, capsys):
    path = write(tmp_path / "a.csv", {"flow": 2.0}, steps=(100, 200, 300, 400))
    others = write(tmp_path / "b.csv", {"gaussian": 1.0}, {"Hopper-v5": 3_000.0}, steps=(150, 250))
    rest = write(tmp_path / "c.csv", {"gaussian": 1.0}, {"Pendulum-v1": -200.0}, steps=(100, 200))
    for part in (others, rest):
        path.write_text(path.read_text() + "".join(part.read_text().splitlines(keepends=True)[1:]))
    assert main([str(path)]) == 0
    said = capsys.readouterr()
    assert said.err == (
        "warning: Hopper-v5: the agents were evaluated at no step in common (flow at 100, 200, 300 ... 400; gaussian "
        "at 150, 250): it is left out\n"
    )
    assert "| interquartile mean of returns | Pendulum-v1, 200 steps |" in said.out
    curves = {key: curve for key, curve in read_curves(path, "avg_return").items() if key[1] == "Hopper-v5"}
    with pytest.raises(UsageError, match=r"Hopper-v5: .* \(flow at 100, .*\): train them with the same --eval-every"):
        final_table(curves)


def test_one_seed_has_no_interval(tmp_path):
    curves = read_curves(write(tmp_path / "a.csv", {"flow": 2.0, "gaussian": 1.0}, seeds=1), "avg_return")
    assert improvement_table(curves, {"gaussian": []}).splitlines()[-1].startswith("| flow | gaussian | 1.00 | ")


def test_a_documents_tables_are_those_that_results_give(tmp_path):
    write(tmp_path / "cheetah.csv", {"flow": 2.0, "gaussian": 1.0})
    text = (
        "before\n<!-- report: cheetah final -->\nold\n<!-- end of report -->\nbetween\n"
        "<!-- report: cheetah improvement over gaussian -->\n<!-- end of report -->\nafter\n"
    )
    new = with_tables(text, tmp_path)
    assert "old" not in new and "| flow | " in new and "| flow | gaussian | 1.00" in new
    assert with_tables(new, tmp_path) == new
    assert re.sub(QUOTED, r"\1\4", new) == re.sub(QUOTED, r"\1\4", text), "nothing else has changed"
    for name, what in (
        ("cheetah", "last"),
        ("nothing", "final"),
        ("cheetah", "seeds returns"),
        ("cheetah,cheetah", "final"),
        ("cheetah,cheetah", "ratios"),
        ("cheetah", "medians"),
        ("cheetah", "improvement of flow"),
        ("cheetah", "improvement of flow over nobody"),
    ):
        (tmp_path / "a.md").write_text(f"<!-- report: {name} {what} -->\n<!-- end of report -->\n")
        with pytest.raises(UsageError, match=rf"a\.md: .*({what.split()[-1]}|flow in Hopper-v5 stands in another)"):
            update_documents([tmp_path / "a.md"], tmp_path)


def test_each_baseline_has_its_agents_and_their_last_common_step(tmp_path):
    write(tmp_path / "short.csv", {"flow": 2.0, "other": 0.1, "gaussian": 1.0}, steps=(100, 200))
    write(tmp_path / "long.csv", {"later": -2.0, "SB3": 1.0}, steps=(200, 300))
    what = "improvement of flow over gaussian; of later over SB3"
    quoted = f"<!-- report: short,long {what} -->\n<!-- end of report -->\n"
    rows = [line.split(" | ") for line in with_tables(quoted, tmp_path).splitlines() if " against " in line]
    assert [(row[0], row[1]) for row in rows] == [("| flow", "gaussian"), ("| later", "SB3")]
    assert [row[2][:4] for row in rows] == ["1.00", "0.00"]
    curves = read_curves(tmp_path / "long.csv", "avg_return") | read_curves(tmp_path / "short.csv", "avg_return")
    alone = improvement_table(read_curves(tmp_path / "long.csv", "avg_return"), {"SB3": []})
    assert improvement_table(curves, {"SB3": ["later"]}) == alone


def test_tables_of_several_suites_are_side_by_side_at_the_step_that_they_share(tmp_path):
    write(tmp_path / "a.csv", {"flow": 2.0, "gaussian": 1.0})
    write(tmp_path / "b.csv", {"other": 3.0}, {"Hopper-v5": 3_000.0}, steps=(100, 200))
    header, _, *rows = table("a,b", "final", tmp_path).splitlines()
    assert header == "| interquartile mean of returns | Hopper-v5, 200 steps | Pendulum-v1, 300 steps |"
    assert [row.split(" | ")[0] for row in rows] == ["| flow", "| gaussian", "| other"]
    assert rows[2].endswith("12,300 (12,000 to 12,600), 3 seeds |  |")


def test_a_studys_table_has_each_agents_values_in_the_order_of_the_seeds():
    rows = [
        dict(agent="b", seed="1", success="0.25", branch="safe", value="-1234.4"),
        dict(agent="a", seed="3", success="0.5", branch="risky", value="2"),
        dict(agent="b", seed="0", success="0.70001", branch="risky", value="5"),
    ]
    lines = seeds_table(rows, ["success", "branch", "value"]).splitlines()
    assert lines[2:] == ["| b | 0.700, 0.250 | risky, safe | 5, -1234 |", "| a, seeds 3 | 0.500 | risky | 2.000 |"]


def test_tables_of_speed():
    def row(what, contender, ratio, reference, skipped=""):
        numbers = dict(median="88.1", ratio=ratio, ratio_lowest="0.5", ratio_highest="9")
        if skipped:
            numbers = dict.fromkeys(numbers, "")
        return dict(what=what, contender=contender, unit="steps/s", reference=reference, **numbers)

    sac = [
        row("SAC", "SB3 SAC, Gaussian", "1.0", "SB3 SAC, Gaussian"),
        row("SAC", "flowrl SAC, nsf", "2.345", "SB3 SAC, Gaussian"),
        row("SAC", "flowrl NFQ, nsf", "2.2", "SB3 SAC, Gaussian"),
        row("SAC", "SBX SAC, Gaussian", "", "SB3 SAC, Gaussian", skipped="not installed"),
    ]
    ppo = [
        row("PPO", f"{who} PPO, {flow}", "3", "SB3 PPO, Gaussian")
        for who, flow in (("SBX", "Gaussian"), ("flowrl", "nsf"))
    ]
    lines = ratios_table(sac).splitlines()
    assert len(lines) == 5 and lines[3] == "| SAC | flowrl SAC, nsf | 88 | 2.35 (0.50 to 9.00) | SB3 SAC, Gaussian |"
    lines = medians_table([sac, ppo]).splitlines()
    assert lines[2:] == ["| flowrl, nsf | 2.35 | 3.00 |"], "what both have, without the references"
    target = dict(case="a / b", unit="ms", target="at most 2", ratio="2.5", lowest="1", highest="3", met="no")
    assert targets_table([target]).splitlines()[2] == "| a to b | ms | at most 2 | 2.50 (1.00 to 3.00), missed |"


@pytest.mark.parametrize(
    "path", [path for path in DOCUMENTS if "<!-- report: " in path.read_text()], ids=lambda p: p.name
)
def test_committed_tables_are_those_of_committed_results(path):
    text = path.read_text()
    assert text.count("<!-- report: ") == len(QUOTED.findall(text))
    assert with_tables(text) == text, "python experiments/report.py --quote brings it up to date"
