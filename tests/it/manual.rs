//! The manual: links are valid, the summary is complete, every command and option is listed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::command::Place;
use crate::command::fixture_text;
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Markdown files of the repository that people read, from its root.
fn pages() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"]
        .map(|name| root().join(name))
        .into();
    for folder in ["docs", "docs/experiments"] {
        let entries = fs::read_dir(root().join(folder)).unwrap();
        found.extend(
            entries
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.extension().is_some_and(|extension| extension == "md")),
        );
    }
    found.sort();
    found
}

/// The lines of a page outside its blocks of code.
fn prose(text: &str) -> Vec<&str> {
    let mut is_code = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            lines.push(line);
        }
    }
    lines
}

/// A line without the text in backticks.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// The targets of a page's links and pictures.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(text) {
        // Code inside a link's text stays out of the way; a target holds none.
        let line = without_code(line);
        for part in line.split("](").skip(1) {
            found.push(part.split([')', ' ']).next().unwrap().to_owned());
        }
    }
    found
}

/// The anchors of a page's headings, by GitHub's rule.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).into_iter().filter_map(|line| {
        let title = line.trim_start_matches('#');
        (title.len() < line.len()).then(|| title.strip_prefix(' '))?
    });
    headings
        .map(|title| {
            let kept = title
                .trim()
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.collect::<String>().to_lowercase().replace(' ', "-")
        })
        .collect()
}

/// Faults in the links of a page.
fn faults(page: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for link in links(text) {
        if link.starts_with("https://") || link.starts_with("http://") {
            continue;
        }
        let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
        let target = match path {
            "" => page.to_owned(),
            path => page.parent().unwrap().join(path),
        };
        if !target.exists() {
            found.push(format!("{}: no file {link}", page.display()));
        } else if !anchor.is_empty() {
            let known = match path {
                "" => anchors(text),
                _ => anchors(&fs::read_to_string(&target).unwrap()),
            };
            if !known.contains(anchor) {
                found.push(format!("{}: no heading for {link}", page.display()));
            }
        }
    }
    found
}

#[test]
fn links_lead_somewhere() {
    let pages = pages();
    assert!(pages.len() > 20, "{pages:?}");
    let mut num_links = 0;
    let mut found = Vec::new();
    for page in &pages {
        let text = fs::read_to_string(page).unwrap();
        num_links += links(&text).len();
        found.extend(faults(page, &text));
    }
    assert_eq!(found, Vec::<String>::new());
    assert!(num_links > 150, "{num_links}");

    let planted =
        "# A title\n[a](nowhere.md) [`b`](#a-title) [c](#other)\n```\n[d](gone.md)\n```\n";
    let found = faults(&root().join("README.md"), planted);
    assert_eq!(found.len(), 2, "{found:?}");
}

/// Texts of all Rust files below a folder.
fn sources(folder: &Path, into: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(fs::read_to_string(&path).unwrap());
        }
    }
}

/// Paths such as `process::a_test` in the backticks of a page.
fn rust_paths(text: &str) -> BTreeSet<&str> {
    prose(text)
        .into_iter()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .filter(|code| {
            code.contains("::")
                && code
                    .chars()
                    .all(|c| c.is_alphanumeric() || "_:".contains(c))
        })
        .collect()
}

#[test]
fn tests_named_in_promises_exist() {
    let mut texts = Vec::new();
    for folder in ["src", "crates", "tests"] {
        sources(&root().join(folder), &mut texts);
    }
    let exists = |path: &str| {
        let name = path.rsplit("::").next().unwrap();
        let function = format!("fn {name}(");
        let module = format!("mod {name}");
        texts
            .iter()
            .any(|text| text.contains(&function) || text.contains(&module))
    };
    let page = fs::read_to_string(root().join("docs/promises.md")).unwrap();
    let named = rust_paths(&page);
    assert!(named.len() > 25, "{named:?}");
    let missing: Vec<&&str> = named.iter().filter(|path| !exists(path)).collect();
    assert!(
        missing.is_empty(),
        "docs/promises.md names no test: {missing:?}"
    );
    assert!(!exists(
        &["process", "a_test_that_is", "_not_there"].join("::")
    ));
}

#[test]
fn summary_names_every_page() {
    let docs = root().join("docs");
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let listed: BTreeSet<PathBuf> = links(&summary).iter().map(|link| docs.join(link)).collect();
    let there: BTreeSet<PathBuf> = pages()
        .into_iter()
        .filter(|page| page.starts_with(&docs) && !page.ends_with("SUMMARY.md"))
        .collect();
    assert_eq!(listed, there);
}

/// The words after which a help text lists commands.
fn commands_in(help: &str) -> Vec<String> {
    let listed = help.split("Commands:\n").nth(1).unwrap_or_default();
    listed
        .lines()
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// The long options of a help text.
fn options_in(help: &str) -> BTreeSet<String> {
    let options = help.split("Options:\n").nth(1).unwrap_or_default();
    let options = options.split("\nExample").next().unwrap_or_default();
    options
        .lines()
        .map(str::trim_start)
        .filter(|line| line.starts_with('-'))
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with("--")))
        .map(|word| word.trim_end_matches("...").to_owned())
        .collect()
}

#[test]
fn manual_lists_every_command_and_option() {
    let page = fs::read_to_string(root().join("docs/commands.md")).unwrap();
    let words: BTreeSet<&str> = page
        .split(|c: char| !(c.is_alphanumeric() || "-_".contains(c)))
        .collect();
    let place = Place::new();
    let mut open = vec![Vec::<String>::new()];
    let mut num_options = 0;
    while let Some(command) = open.pop() {
        let mut arguments: Vec<&str> = command.iter().map(String::as_str).collect();
        arguments.push("--help");
        let help = place.run(&arguments).succeeds().stdout;
        for name in commands_in(&help) {
            assert!(
                words.contains(name.as_str()),
                "docs/commands.md lacks `{name}`"
            );
            open.push(command.iter().cloned().chain([name]).collect());
        }
        for option in options_in(&help) {
            num_options += 1;
            assert!(
                words.contains(option.as_str()),
                "docs/commands.md lacks `{option}` of `{}`",
                command.join(" ")
            );
        }
        let is_leaf = !command.is_empty() && commands_in(&help).is_empty();
        let needs_example =
            is_leaf && !["bench", "instructions", "embed", "features"].contains(&arguments[0]);
        assert!(
            !needs_example || help.contains("\nExample"),
            "{}",
            command.join(" ")
        );
    }
    assert!(num_options > 120, "{num_options}");
}

#[test]
fn manual_lists_every_key_of_a_rubric() {
    let page = fs::read_to_string(root().join("docs/evaluation.md")).unwrap();
    let shipped = fs::read_to_string(root().join("eval/judges/summary.yaml")).unwrap();
    let place = Place::new();
    let mut num_keys = 0;
    for (at, planted) in [
        ("name: summary\n", "name: summary\nzzz: 1\n"),
        ("    lowest: 1\n", "    lowest: 1\n    zzz: 1\n"),
        ("prices: {", "prices: {zzz: 1, "),
    ] {
        assert!(shipped.contains(at));
        place.write("rubric.yaml", shipped.replacen(at, planted, 1));
        let judge = [
            "judge",
            "--predictions",
            "p",
            "--sources",
            "s",
            "--endpoint",
            "http://localhost/v1",
        ];
        let told = place.run(&[&judge[..], &["--rubric", "rubric.yaml", "--out", "o"]].concat());
        let told = told.fails(2, &["unknown field `zzz`"]).stderr;
        let listed = told.split_once(", expected ").unwrap().1;
        for key in listed.lines().next().unwrap().split('`').skip(1).step_by(2) {
            num_keys += 1;
            assert!(
                page.contains(&format!("`{key}`")),
                "docs/evaluation.md lacks `{key}`"
            );
        }
    }
    assert!(num_keys > 12, "{num_keys}");
}

#[test]
fn readme_is_short() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let num_words: usize = prose(&text)
        .iter()
        .map(|line| line.split_whitespace().count())
        .sum();
    assert!((500..=900).contains(&num_words), "{num_words} words");
}

#[test]
fn quiet_and_verbose_change_only_messages() {
    let place = Place::new();
    let told = place.run(&["new", "task", "mood.yaml"]).succeeds();
    assert!(
        told.stderr.contains("written: mood.yaml"),
        "{}",
        told.stderr
    );
    let quiet = place
        .run(&["new", "task", "calm.yaml", "--quiet"])
        .succeeds();
    assert_eq!(quiet.stderr, "");
    assert!(place.path("calm.yaml").is_file());
    place
        .run(&["-q", "new", "task", "calm.yaml"])
        .fails(2, &["error: calm.yaml: exists already"]);
    place
        .run(&["-q", "-v", "new", "task"])
        .fails(2, &["cannot be used with"]);
}

#[test]
fn version_names_the_commit() {
    let printed = Place::new().run(&["--version"]).succeeds().stdout;
    let commit = printed
        .trim()
        .rsplit_once(" (")
        .unwrap()
        .1
        .trim_end_matches(')')
        .to_owned();
    let is_hash = commit.len() == 12 && commit.chars().all(|c| c.is_ascii_hexdigit());
    assert!(
        is_hash || commit == "unknown" || std::env::var_os("MAQAM_COMMIT").is_some(),
        "{printed}"
    );
}

/// A place with a recipe of two steps on clips that ship, and its dev suite.
fn two_steps() -> Place {
    let place = Place::new();
    let manifest = |name: &str| root().join("data/first").join(name).display().to_string();
    place.write(
        "dev.yaml",
        format!(
            "role: dev\nsets: [{{name: words, manifest: {}, task: asr, metrics: [wer], limit: 2}}]\n",
            manifest("asr-dev.jsonl")
        ),
    );
    place.write(
        "two.yaml",
        format!(
            "model: {}\ndata: {{manifest: {}, task: asr}}\nlora: {{rank: 2}}\nevaluate: dev.yaml\n\
             schedule: {{batch: 2, stages: [{{steps: 2}}]}}\n",
            fixture_text("qwen_omni"),
            manifest("asr-train.jsonl")
        ),
    );
    place
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect()
}

#[test]
fn json_output_equals_the_files() {
    let place = two_steps();
    let plan = lines(&place.run(&["plan", "two.yaml", "--json"]).succeeds().stdout);
    let [plan] = &plan[..] else {
        panic!("{plan:?}")
    };
    assert_eq!((&plan["steps"], &plan["batch"]), (&2.into(), &2.into()));
    assert_eq!(plan["rows"], 96);
    assert_eq!(plan["stages"][0]["shares"][0]["task"], "asr");
    assert_eq!(plan["total"]["examples"], 4.0);

    let trained = place.run(&["train", "two.yaml", "--json", "-q"]).succeeds();
    assert_eq!(trained.stderr, "", "quiet");
    let events = lines(&trained.stdout);
    let kinds: Vec<&str> = events
        .iter()
        .map(|event| event["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["train", "train", "eval", "done"]);
    let logged: Vec<Value> = lines(&place.text("runs/two/log.jsonl"));
    assert_eq!(
        logged[..2],
        events[..2],
        "events of steps are lines of the log"
    );
    assert_eq!(logged[2]["scores"], events[2]["scores"]);
    let plan_audio = plan["total"]["audio_s"].as_f64().unwrap();
    let steps = &events[..2];
    let heard: f64 = steps
        .iter()
        .map(|step| step["seconds"].as_f64().unwrap())
        .sum();
    assert!((plan_audio - heard).abs() < 1e-6, "{plan_audio} {heard}");
    assert_eq!(events[3]["folder"], "runs/two");
    assert!(
        place
            .path(events[3]["checkpoint"].as_str().unwrap())
            .is_dir()
    );

    let model = fixture_text("qwen_omni");
    let eval = [
        "eval",
        "dev.yaml",
        "--model",
        &model,
        "--adapter",
        "runs/two/best",
        "--json",
        "-q",
    ];
    let told = place.run(&eval).succeeds();
    assert_eq!(told.stderr, "", "quiet");
    let evaluated = &lines(&told.stdout)[0];
    let systems = evaluated["systems"].as_array().unwrap();
    assert_eq!((systems.len(), &systems[0]["name"]), (2, &"base".into()));
    for system in systems {
        let folder = system["folder"].as_str().unwrap();
        let stored: Value =
            serde_json::from_str(&place.text(&format!("{folder}/scores.json"))).unwrap();
        assert_eq!(stored["words.wer"], system["scores"]["words.wer"]);
    }

    let reported = &lines(
        &place
            .run(&["report", "runs/two", "--json"])
            .succeeds()
            .stdout,
    )[0];
    assert_eq!(reported["report"], "runs/two/report.html");
    assert!(place.path("runs/two/report.html").is_file());
}

#[test]
fn verbose_has_a_line_per_step() {
    let told = two_steps()
        .run(&["train", "two.yaml", "-v"])
        .succeeds()
        .stderr;
    let lines: Vec<&str> = told
        .lines()
        .filter(|line| line.starts_with("training "))
        .collect();
    assert!(
        lines.len() == 2 && lines[1].starts_with("training 2/2"),
        "{told}"
    );
}
