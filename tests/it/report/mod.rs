//! Reports and comparisons of run folders made here: well-formed, finite, without overlaps,
//! whatever the runs hold.

mod check;
mod sample;
mod xml;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use check::check;
use check::check_pictures;
use maqam::error::Result;
use maqam::records::prediction::Prediction;
use maqam::records::run_folder::Run;
use maqam::report;
use maqam::report::chart::bars::Bar;
use maqam::report::chart::bars::BarChart;
use maqam::report::chart::bars::Group;
use maqam::report::chart::figure::Chart;
use maqam::report::chart::heat::HeatMap;
use maqam::report::chart::ink::Ink;
use maqam::report::chart::lines::Boundary;
use maqam::report::chart::lines::Level;
use maqam::report::chart::lines::LineChart;
use maqam::report::chart::lines::Series;
use maqam::report::chart::timeline::Stage;
use maqam::report::chart::timeline::Timeline;
use maqam::report::clips::Clips;
use maqam::report::compare;
use maqam::report::evaluation;
use maqam::report::evaluation::Evaluation;
use maqam::report::metric::Metric;
use maqam::report::page::Page;
use maqam::report::uncertainty::Difference;
use maqam::report::uncertainty::Uncertainty;
use maqam::report::uncertainty::Unknown;
use maqam::stats::significance::Interval;
use sample::EVIL;
use sample::Sample;

/// A temporary folder.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn silent(_: &Run, _: &str, _: &str) -> Result<Option<String>> {
    Ok(None)
}

/// The report of a sample.
fn report_of(sample: &Sample) -> Page {
    let dir = folder();
    sample.write(&dir.path().join("run"));
    report::page(
        &[Run::read(&dir.path().join("run")).unwrap()],
        &Unknown,
        &silent,
    )
    .unwrap()
}

fn titles(page: &Page) -> Vec<&str> {
    page.sections
        .iter()
        .filter(|section| !section.blocks.is_empty())
        .map(|section| section.title.as_str())
        .collect()
}

fn says(page: &Page, text: &str) -> bool {
    page.html().contains(text)
}

#[test]
fn a_page_has_the_whole_run_and_escapes_markup() {
    let mut sample = Sample::default();
    sample.tasks[1] = EVIL.replace('|', "");
    let page = report_of(&sample);
    let elements = check(&page);
    assert_eq!(
        titles(&page),
        [
            "Scores",
            "Learning curves",
            "What it saw",
            "Gradients",
            "Answers",
            "Slices",
            "Worst utterances",
            "Recipe"
        ]
    );
    let ids: Vec<&str> = page
        .figures()
        .iter()
        .map(|figure| figure.id.as_str())
        .collect();
    let expected = [
        "scores-bars",
        "training-loss",
        "audio-gap",
        "scores-by-step",
        "learning-rate",
        "stages",
        "shares",
        "gradient-norms",
        "cosines-by-step",
        "cosines-by-stage",
    ];
    assert_eq!(ids[..10], expected);
    assert_eq!(ids[10..], ["confusions", "failures"]);
    let shown = |text: &str| elements.iter().any(|element| element.text.trim() == text);
    assert!(
        shown("7.0 min") && shown("of audio") && shown("240") && shown("660"),
        "60 steps of 7 s, 4 examples and 11 target tokens"
    );
    assert!(
        elements
            .iter()
            .filter(|element| element.name == "script")
            .count()
            == 1,
        "no answer became a script"
    );
    assert!(shown("at most 5 words <&>") && says(&page, "projector lora, decoder lora"));
    assert!(
        elements
            .iter()
            .any(|element| element.get("dir") == Some("auto")
                && element.get("class") == Some("alignment"))
    );
    // 4 of 12 rows are wrong, and the one of the other label.
    let unparsed: BTreeSet<&str> = elements
        .iter()
        .map(|element| element.text.as_str())
        .filter(|text| text.contains("→ unparsed: "))
        .collect();
    assert_eq!(
        unparsed.into_iter().collect::<Vec<_>>(),
        ["angry → unparsed: 2 33 %", "happy & sad → unparsed: 2 33 %"]
    );
}

#[test]
fn missing_parts_are_left_out() {
    let dir = folder();
    let run = dir.path().join("run");
    Sample {
        has_probes: false,
        ..Sample::default()
    }
    .write(&run);
    let read = || report::page(&[Run::read(&run).unwrap()], &Unknown, &silent).unwrap();
    assert!(
        !read()
            .figures()
            .iter()
            .any(|figure| figure.id.starts_with("cosines") || figure.id == "audio-gap")
    );
    fs::remove_file(run.join("recipe.yaml")).unwrap();
    assert!(!titles(&read()).contains(&"Recipe"));
    for step in [0, 30, 60] {
        fs::remove_file(run.join(format!("eval/step-{step:06}/words.jsonl"))).unwrap();
        fs::remove_file(run.join(format!("eval/step-{step:06}/moods.jsonl"))).unwrap();
    }
    let page = read();
    check(&page);
    assert_eq!(
        titles(&page),
        [
            "Scores",
            "Learning curves",
            "What it saw",
            "Gradients",
            "Answers"
        ],
        "the instructions are still there"
    );
    fs::remove_dir_all(run.join("eval")).unwrap();
    let page = read();
    check(&page);
    assert_eq!(
        page.figures()
            .iter()
            .filter(|figure| figure.id == "scores-by-step")
            .count(),
        1,
        "the log has scores too"
    );
    fs::write(run.join("log.jsonl"), "").unwrap();
    assert!(titles(&read()).is_empty());
    fs::remove_file(run.join("log.jsonl")).unwrap();
    let error = Run::read(&run).unwrap_err();
    assert!(
        error.exit_code() == 2 && error.to_string().contains("neither `log.jsonl` nor scores"),
        "{error}"
    );
}

#[test]
fn odd_runs_are_shown_as_well() {
    let odd = [
        Sample {
            steps: 1,
            evaluations: vec![1],
            ..Sample::default()
        },
        Sample {
            steps: 1,
            evaluations: vec![],
            has_probes: false,
            ..Sample::default()
        },
        Sample {
            rows: 0,
            ..Sample::default()
        },
        Sample {
            rows: 1,
            wrong: 1,
            ..Sample::default()
        },
        Sample {
            scale: 1e300,
            ..Sample::default()
        },
        Sample {
            scale: 1e-300,
            ..Sample::default()
        },
        Sample {
            scale: 0.0,
            ..Sample::default()
        },
        Sample {
            tasks: vec!["مهمة لها اسم طويل جدا لا يتسع له المكان أبدا".into()],
            ..Sample::default()
        },
        Sample {
            tasks: (0..20).map(|i| format!("task-with-a-name-{i}")).collect(),
            ..Sample::default()
        },
    ];
    for sample in &odd {
        check(&report_of(sample));
    }
}

#[test]
fn charts_have_space_for_their_texts() {
    let names =
        |count: usize, name: &str| (0..count).map(|i| format!("{name}{i}")).collect::<Vec<_>>();
    let at = |places: &[f64]| {
        places
            .iter()
            .enumerate()
            .map(|(i, at)| Boundary {
                at: *at,
                name: format!("مرحلة stage {i}"),
            })
            .collect::<Vec<_>>()
    };
    let curves = |count: usize, name: &str| {
        names(count, name)
            .into_iter()
            .enumerate()
            .map(|(i, name)| Series::new(name, vec![(0.0, 1.0), (100.0, 0.5 + 0.01 * i as f64)], i))
            .collect()
    };
    let lines = |series: Vec<Series>, places: &[f64]| {
        Chart::Lines(LineChart {
            series,
            boundaries: at(places),
            levels: vec![Level {
                name: "no-audio".into(),
                value: 0.51,
            }],
            ..LineChart::default()
        })
    };
    let bar = |value: f64| {
        Some(Bar {
            value,
            interval: Interval::new(value - 0.5, value + 0.5),
            marks: "***".into(),
            points: vec![value - 0.2, value + 0.3],
        })
    };
    let group = |(i, name): (usize, String)| Group {
        name,
        bars: vec![bar(i as f64 - 1.0), None, bar(f64::NAN), bar(-0.2)],
    };
    let bars = |count: usize, is_stacked: bool| {
        Chart::Bars(BarChart {
            series: names(4, "مسلسل series "),
            groups: names(count, "مجموعة group ")
                .into_iter()
                .enumerate()
                .map(group)
                .collect(),
            is_stacked,
            ..BarChart::default()
        })
    };
    let heat = |count: usize, name: &str| {
        Chart::Heat(HeatMap::confusion(
            &names(count, name),
            &vec![vec![7; count + 1]; count],
        ))
    };
    let stage = |(i, name): (usize, String)| Stage {
        name,
        steps: if i % 2 == 0 { 1.0 } else { 500.0 },
        parts: vec![i as f64, 1.0, f64::NAN],
        note: "ended: no better".into(),
    };
    let timeline = Chart::Timeline(Timeline {
        colours: Vec::new(),
        tasks: names(3, "مهمة "),
        stages: names(6, "stage ")
            .into_iter()
            .enumerate()
            .map(stage)
            .collect(),
    });
    let charts = [
        lines(curves(1, "a"), &[0.0, 1.0, 2.0, 3.0, 50.0, 99.0, 100.0]),
        lines(curves(16, "منهج "), &[0.0, 50.0]),
        lines(curves(40, "recipe-with-a-name-"), &[]),
        lines(Vec::new(), &[0.0]),
        bars(3, false),
        bars(30, false),
        bars(5, true),
        heat(4, "غاضب"),
        heat(2, "a label of many words "),
        heat(30, "كلمة"),
        heat(0, ""),
        timeline,
    ];
    for (i, chart) in charts.iter().enumerate() {
        for width in [360.0, 760.0] {
            println!("chart {i}, {width} wide");
            check_pictures(&xml::read(&chart.svg(width, Ink::File, "a chart")));
        }
    }
}

#[test]
fn audio_is_linked_or_put_into_the_page() {
    let dir = folder();
    let run = dir.path().join("run");
    Sample::default().write(&run);
    fs::write(
        run.join("recipe.yaml"),
        format!(
            "evaluate: {{suite: {}/eval/first.yaml}}\n",
            env!("CARGO_MANIFEST_DIR")
        ),
    )
    .unwrap();
    let run = Run::read(&run).unwrap();
    // The suite's manifest is named from the crate's folder, where tests run.
    let clips = Clips::of(&run).unwrap();
    let page = Path::new("runs/sample/report.html");
    let address =
        |id: &str, is_embedded: bool| clips.address("words", id, page, is_embedded).unwrap();
    let link = address("asr-omar-01-happy", false).unwrap();
    assert!(
        link.ends_with("data/first/clips/omar-01-happy.flac") && !link.contains("//"),
        "{link}"
    );
    assert!(
        address("asr-omar-01-happy", true)
            .unwrap()
            .starts_with("data:audio/wav;base64,UklGR")
    );
    assert_eq!(
        (address("nobody", false), address("nobody", true)),
        (None, None)
    );
    assert_eq!(
        Clips::default()
            .address("words", "asr-omar-01-happy", page, false)
            .unwrap(),
        None
    );
}

#[test]
fn a_loss_that_is_no_number_is_a_gap() {
    let dir = folder();
    let run = dir.path().join("run");
    Sample::default().write(&run);
    let log = fs::read_to_string(run.join("log.jsonl")).unwrap();
    let without: String = log
        .lines()
        .map(|line| if line.contains("\"step\":30,") { line.replace("\"loss\":", "\"loss\":null,\"was\":") } else { line.to_owned() } + "\n")
        .collect();
    fs::write(run.join("log.jsonl"), &without).unwrap();
    assert!(without.contains("null"));
    check(&report::page(&[Run::read(&run).unwrap()], &Unknown, &silent).unwrap());
}

#[test]
fn broken_files_are_named() {
    let dir = folder();
    let run = dir.path().join("run");
    let broken = [
        (
            "log.jsonl",
            "{\"kind\":\"train\",\"step\":1,\"stage\":\"a\"}\n{\"kind\":\"train\"",
            "log.jsonl:2: not a line of a log",
        ),
        ("recipe.yaml", "a: [1\n", "recipe.yaml:2"),
        (
            "eval/step-000060/scores.json",
            "{",
            "scores.json: column 1: not JSON",
        ),
        (
            "eval/step-000060/words.jsonl",
            "{\"id\": 1}",
            "words.jsonl:1: not a prediction",
        ),
        (
            "eval/step-000030/words.jsonl",
            "nothing",
            "words.jsonl:1: not a prediction",
        ),
        (
            "eval/step-000060/instructions.json",
            "{\"all\": 1}",
            "instructions.json: not the scores of instructions",
        ),
    ];
    for (file, text, expected) in broken {
        Sample::default().write(&run);
        fs::write(run.join(file), text).unwrap();
        let error = Run::read(&run)
            .and_then(|run| report::page(&[run], &Unknown, &silent))
            .unwrap_err();
        assert!(
            error.exit_code() == 2 && error.to_string().contains(expected),
            "{file}: {error}"
        );
    }
}

#[test]
fn a_long_log_makes_a_small_page() {
    let page = report_of(&Sample {
        steps: 40_000,
        evaluations: vec![],
        ..Sample::default()
    });
    // Two thousand points a curve at most: some fifteen bytes each, on ten curves at two widths.
    assert!(page.html().len() < 1_500_000, "{} bytes", page.html().len());
    check(&page);
}

fn evaluation_of(sample: &Sample, tuned: &[&str], has_baseline: bool) -> Page {
    let dir = folder();
    sample.write_eval(dir.path(), tuned, has_baseline);
    let found = Evaluation::read(dir.path()).unwrap();
    evaluation::page(&found, &Plugged, &silent).unwrap()
}

#[test]
fn an_evaluation_shows_every_system_and_two_tests() {
    let page = evaluation_of(&Sample::default(), &["tuned"], true);
    check(&page);
    let tables = page.tables();
    let table = |id: &str| {
        tables
            .iter()
            .find(|table| table.id == id)
            .unwrap()
            .markdown()
    };
    let tests = table("tests");
    for expected in [
        "the majority answer, “angry”",
        "the wrong audio",
        // Plugged tests WER alone: p = 0.004 for both models, 0.008 after Holm.
        "33.3 | 100.0 | −66.7 | 0.008 | yes |",
        "not tested",
    ] {
        assert!(tests.contains(expected), "{expected}\n{tests}");
    }
    let words = table("scores-words");
    // The metric of the task precedes the loss, and controls are rows.
    assert!(
        words.find("WER").unwrap() < words.find("loss").unwrap(),
        "{words}"
    );
    assert!(words.contains("| tuned, shuffled audio |") && !words.contains("majority"));
    assert!(table("scores-moods").contains("| majority |"));
    let slices = table("slices-words-wording");
    assert!(
        slices.contains("اكتب ما قيل") && slices.contains("[40.0, 60.0]"),
        "{slices}"
    );
    let map = page
        .figures()
        .iter()
        .find(|figure| figure.id == "confusions-moods")
        .unwrap()
        .file();
    let first = map.find(">happy &amp; sad<").unwrap();
    let second = map.find(">angry<").unwrap();
    assert!(first < second, "the inventory's order");
    assert!(
        page.html()
            .contains("majority of moods: <code>angry</code>")
    );
}

#[test]
fn evaluations_of_one_and_of_six_systems_are_shown() {
    for tuned in [&[][..], &["a", "b", "ج", "d", "e"]] {
        for has_baseline in [false, true] {
            let page = evaluation_of(&Sample::default(), tuned, has_baseline);
            check(&page);
            let guess = if has_baseline {
                "the majority answer"
            } else {
                "the set's commonest label, “angry”"
            };
            assert!(
                page.tables()
                    .iter()
                    .any(|table| table.markdown().contains(guess))
            );
        }
    }
    let arabic = Sample {
        tasks: vec!["تفريغ".into(), "مشاعر".into()],
        ..Sample::default()
    };
    check(&evaluation_of(&arabic, &["tuned"], true));
    let page = report_of(&arabic);
    assert!(says(&page, "\u{2068}تفريغ\u{2069}, \u{2068}مشاعر\u{2069}"));
}

#[test]
fn the_shares_say_what_the_loss_normalises() {
    let dir = folder();
    let run = dir.path().join("run");
    Sample::default().write(&run);
    let written = fs::read_to_string(run.join("recipe.yaml")).unwrap();
    let second = "steps: 20}\n  - {name: two, steps: 40, loss: {normalise: task}}";
    let cases = [
        (written.clone(), "every target token weighs the same"),
        (
            format!("{written}loss: {{normalise: example}}\n"),
            "every example weighs the same in the loss of its step",
        ),
        (
            format!("{written}loss: {{normalise: task}}\n"),
            "every task of a step weighs the same",
        ),
        (
            format!("{written}loss: {{normalise: example}}\ngradients: {{method: pcgrad}}\n"),
            "every task of a step has a gradient of its own",
        ),
        (
            format!("{written}loss: {{class_weights: balanced}}\n"),
            "`class_weights` change this for labels",
        ),
        (
            written.replace("steps: 20}", second),
            "Stages normalise the loss by token and task",
        ),
    ];
    for (recipe, words) in cases {
        fs::write(run.join("recipe.yaml"), &recipe).unwrap();
        let read = Run::read(&run).unwrap();
        let page = report::page(&[read], &Unknown, &silent).unwrap();
        let figures = page.figures();
        let shares = figures.iter().find(|figure| figure.id == "shares").unwrap();
        assert!(shares.caption.contains(words), "{recipe}{}", shares.caption);
        let is_by_token = shares
            .caption
            .contains("every target token weighs the same");
        assert_eq!(is_by_token, !recipe.contains("normalise"));
    }
}

#[test]
fn systems_of_another_suite_version_are_left_out() {
    let dir = folder();
    Sample::default().write_eval(dir.path(), &["old", "tuned"], false);
    let scores = dir.path().join("old/scores.json");
    let text = fs::read_to_string(&scores).unwrap().replace("00ff", "11ff");
    fs::write(&scores, text).unwrap();
    let found = Evaluation::read(dir.path()).unwrap();
    assert_eq!(found.outdated, ["old"]);
    let page = evaluation::page(&found, &Unknown, &silent).unwrap();
    assert!(says(&page, "another version of the suite: old."));
}

#[test]
fn a_comparison_has_controls_and_baselines() {
    let dir = folder();
    Sample::default().write_eval(dir.path(), &["tuned"], true);
    let read = |name: &str| Run::read(&dir.path().join(name)).unwrap();
    let page = compare::page(&[read("base"), read("tuned")], &Unknown, false).unwrap();
    check(&page);
    let controls = |page: &Page| {
        let tables = page.tables();
        let table = tables.iter().find(|table| table.id == "controls");
        table.map(|table| table.markdown()).unwrap_or_default()
    };
    assert!(controls(&page).contains("majority"), "{}", controls(&page));
    // A baseline that is named itself is compared on the sets that it answers.
    let page = compare::page(&[read("base"), read("majority")], &Unknown, false).unwrap();
    check(&page);
    assert_eq!(controls(&page), "");
    let trained = runs(dir.path(), 2);
    let page = compare::page(&trained, &Unknown, false).unwrap();
    assert!(
        controls(&page).contains("run-1, no audio"),
        "{}",
        controls(&page)
    );
}

#[test]
fn task_metrics_are_first_and_labels_in_order() {
    let sample = Sample::default();
    let dir = folder();
    let run = dir.path().join("run");
    sample.write(&run);
    // `sad` precedes `surprised` and follows `neutral` in the inventory of `emotion`, and its task
    // is scored by UAR.
    for step in [0, 30, 60] {
        let path = run.join(format!("eval/step-{step:06}/moods.jsonl"));
        let text = fs::read_to_string(&path).unwrap();
        fs::write(
            &path,
            text.replace("happy & sad", "sad")
                .replace("angry", "surprised"),
        )
        .unwrap();
        let path = run.join(format!("eval/step-{step:06}/scores.json"));
        let text = fs::read_to_string(&path).unwrap();
        let scores: serde_json::Value = serde_json::from_str(&text).unwrap();
        let mut turned = serde_json::Map::new();
        for name in [
            "words.loss",
            "words.wer",
            "moods.macro_f1",
            "moods.uar",
            "mean",
        ] {
            turned.insert(name.to_owned(), scores[name].clone());
        }
        fs::write(&path, serde_json::Value::Object(turned).to_string()).unwrap();
    }
    let page = report::page(&[Run::read(&run).unwrap()], &Unknown, &silent).unwrap();
    check(&page);
    let scores = page.tables()[0].markdown();
    let place = |text: &str| {
        scores
            .find(text)
            .unwrap_or_else(|| panic!("{text}\n{scores}"))
    };
    assert!(
        place("UAR") < place("macro F1") && place("WER") < place("loss"),
        "{scores}"
    );
    let map = page
        .figures()
        .iter()
        .find(|figure| figure.id == "confusions")
        .unwrap()
        .file();
    assert!(map.find(">sad<").unwrap() < map.find(">surprised<").unwrap());
}

#[test]
fn a_page_has_the_history_of_its_run() {
    let dir = folder();
    let run = dir.path().join("run");
    Sample::default().write(&run);
    let read = || report::page(&[Run::read(&run).unwrap()], &Unknown, &silent).unwrap();
    assert!(!titles(&read()).contains(&"How it came about"));
    let machine = serde_json::json!({"cpu": "CPU <x>", "cores": 2});
    let session = serde_json::json!({"started": "2026-11-29T01:00:00Z", "version": "0.1.0", "commit": "abc", "computes": "cpu f32", "machine": machine});
    let environment = serde_json::json!({"format": 1, "wall_s": 90.0, "audio_s_per_s": 14.0, "sessions": [session]});
    fs::write(run.join("environment.json"), environment.to_string()).unwrap();
    fs::write(run.join("inputs.json"), r#"{"data/a.jsonl": "00ff"}"#).unwrap();
    let page = read();
    check(&page);
    assert!(titles(&page).contains(&"How it came about"));
    for expected in [
        "1.5 min",
        "CPU &lt;x&gt;, 2 cores",
        "commit abc",
        "14.00 s of audio per s",
        "data/a.jsonl",
        "00ff",
    ] {
        assert!(says(&page, expected), "{expected}");
    }
}

/// Several runs, each with its own share of wrong answers.
fn runs(dir: &Path, count: usize) -> Vec<Run> {
    let folders: Vec<PathBuf> = (0..count).map(|i| dir.join(format!("run-{i}"))).collect();
    for (i, folder) in folders.iter().enumerate() {
        Sample {
            wrong: 2 + i,
            ..Sample::default()
        }
        .write(folder);
        let recipe = fs::read_to_string(folder.join("recipe.yaml")).unwrap();
        fs::write(
            folder.join("recipe.yaml"),
            recipe.replace("seed: 7", &format!("seed: {i}")),
        )
        .unwrap();
    }
    folders
        .iter()
        .map(|folder| Run::read(folder).unwrap())
        .collect()
}

/// Intervals and tests that are easily recognised.
struct Plugged;

impl Uncertainty for Plugged {
    fn method(&self) -> Option<String> {
        Some("Intervals by ruler & compass.".to_owned())
    }

    fn interval(&self, metric: &Metric, _: f64, rows: &[Prediction]) -> Result<Option<Interval>> {
        assert_eq!(rows.len(), 12);
        Ok((metric.name == "wer").then_some(Interval {
            low: 0.111,
            high: 0.222,
        }))
    }

    fn difference(
        &self,
        metric: &Metric,
        values: [f64; 2],
        first: &[Prediction],
        second: &[Prediction],
    ) -> Result<Option<Difference>> {
        assert!(
            first.iter().zip(second).all(|(a, b)| a.id == b.id),
            "rows come in one order"
        );
        assert!(values.iter().all(|value| value.is_finite()), "{metric:?}");
        Ok((metric.name == "wer").then_some(Difference {
            interval: None,
            p: Some(0.004),
        }))
    }
}

#[test]
fn runs_are_compared_with_the_first() {
    let dir = folder();
    let mut runs = runs(dir.path(), 3);
    // The order of rows is no difference.
    let words = dir.path().join("run-1/eval/step-000060/words.jsonl");
    let turned: Vec<String> = fs::read_to_string(&words)
        .unwrap()
        .lines()
        .rev()
        .map(str::to_owned)
        .collect();
    fs::write(&words, turned.join("\n")).unwrap();
    let page = compare::page(&runs, &Plugged, true).unwrap();
    check(&page);
    let html = page.html();
    assert!(html.contains("Intervals by ruler &amp; compass.") && html.contains("[11.1, 22.2]"));
    // Every second answer was wrong, then every third, then every fourth; two tests of p = 0.004
    // are one of 0.008 after Holm.
    assert!(
        html.contains("<span class=\"better\">−16.7**</span>")
            && html.contains("<span class=\"better\">−25.0**</span>"),
        "in the table"
    );
    assert!(
        html.contains("33.3 **") && html.contains("25.0 **"),
        "beside their bars"
    );
    assert!(html.contains("corrected over all 2 tests"));
    assert!(
        !compare::page(&runs, &Plugged, false)
            .unwrap()
            .html()
            .contains("**")
    );
    let written = compare::write(&page, &dir.path().join("out")).unwrap();
    assert_eq!(fs::read_to_string(written).unwrap(), html);
    let names: BTreeSet<String> = fs::read_dir(dir.path().join("out"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let expected = [
        "controls.md",
        "controls.tex",
        "recipes.md",
        "recipes.tex",
        "report.html",
        "runs.md",
        "runs.tex",
        "scores-bars.svg",
        "scores-by-step.svg",
        "scores.md",
        "scores.tex",
        "training-loss.svg",
    ];
    assert_eq!(
        names.iter().map(String::as_str).collect::<Vec<_>>(),
        expected
    );
    assert!(
        fs::read_to_string(dir.path().join("out/recipes.md"))
            .unwrap()
            .contains("| `seed` | `0` | `1` | `2` |")
    );
    runs.truncate(1);
    assert!(
        compare::page(&runs, &Unknown, false)
            .unwrap_err()
            .to_string()
            .contains("1 run, and a comparison needs two")
    );
}

#[test]
fn a_dozen_runs_are_compared_and_reported() {
    let dir = folder();
    let runs = runs(dir.path(), 12);
    let page = compare::page(&runs, &Plugged, true).unwrap();
    check(&page);
    assert!(says(&page, "12 runs") && says(&page, "run-11"));
    check(&report::page(&runs, &Unknown, &silent).unwrap());
}

#[test]
fn runs_evaluated_on_other_rows_are_refused() {
    let cases: [(&str, &dyn Fn(String) -> String, &str); 4] = [
        (
            "words.jsonl",
            &|text| text.replace("\"w3\"", "\"w99\""),
            "set `words`: the row `w3` is in run-0 and not in run-1 (12 rows in run-0, 12 in run-1)",
        ),
        (
            "words.jsonl",
            &|text| {
                text.lines()
                    .skip(2)
                    .map(|line| format!("{line}\n"))
                    .collect()
            },
            "the row `w0` is in run-0 and not in run-1 (12 rows in run-0, 10 in run-1)",
        ),
        (
            "words.jsonl",
            &|text| text.replacen("صباح الخير يا", "مساء الخير يا", 1),
            "the row `w0` has another reference in run-1 than in run-0",
        ),
        (
            "words.jsonl",
            &|text| text.replace("\"w3\"", "\"w2\""),
            "words.jsonl:4: the id `w2` is that of line 3",
        ),
    ];
    for (file, change, expected) in cases {
        let dir = folder();
        let runs = runs(dir.path(), 2);
        let path = dir.path().join("run-1/eval/step-000060").join(file);
        fs::write(&path, change(fs::read_to_string(&path).unwrap())).unwrap();
        let error = compare::page(&runs, &Unknown, false).unwrap_err();
        assert!(
            error.exit_code() == 2 && error.to_string().contains(expected),
            "{error}"
        );
    }
    let dir = folder();
    let runs = runs(dir.path(), 2);
    fs::remove_file(dir.path().join("run-0/eval/step-000060/moods.jsonl")).unwrap();
    let error = compare::page(&runs, &Unknown, false)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("the set `moods` was judged in run-1 and not in run-0"),
        "{error}"
    );
    fs::remove_dir_all(dir.path().join("run-1/eval")).unwrap();
    let error = compare::page(
        &[
            Run::read(&dir.path().join("run-0")).unwrap(),
            Run::read(&dir.path().join("run-1")).unwrap(),
        ],
        &Unknown,
        false,
    )
    .unwrap_err()
    .to_string();
    assert!(error.contains("has scores but no predictions"), "{error}");
}

#[test]
fn the_commands_write_to_the_given_paths() {
    let dir = folder();
    runs(dir.path(), 2);
    let maqam = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_maqam"))
            .args(arguments)
            .current_dir(dir.path())
            .output()
            .unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    assert_eq!(maqam(&["report", "run-0"]), (0, String::new()));
    assert_eq!(
        maqam(&["report", "run-0", "run-1", "--out", "both.html"]),
        (0, String::new())
    );
    assert_eq!(
        maqam(&["compare", "run-0", "run-1", "--out", "side-by-side"]),
        (0, String::new())
    );
    for file in ["run-0/report.html", "both.html", "side-by-side/report.html"] {
        xml::read(&fs::read_to_string(dir.path().join(file)).unwrap());
    }
    Sample::default().write_eval(&dir.path().join("eval"), &["tuned"], true);
    assert_eq!(maqam(&["report", "eval"]), (0, String::new()));
    assert_eq!(
        maqam(&["compare", "eval", "--out", "systems"]),
        (0, String::new())
    );
    xml::read(&fs::read_to_string(dir.path().join("eval/report.html")).unwrap());
    let systems = fs::read_to_string(dir.path().join("systems/scores.md")).unwrap();
    assert!(
        systems.contains("majority") && systems.contains("tuned"),
        "{systems}"
    );
    let (code, error) = maqam(&["compare", "run-0", "run-9"]);
    assert!(
        code == 2 && error.contains("run-9: no such folder"),
        "{error}"
    );
    let (code, error) = maqam(&["report", "run-0", "./run-0"]);
    assert!(code == 2 && error.contains("named twice"), "{error}");
}
