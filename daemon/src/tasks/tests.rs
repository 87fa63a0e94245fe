//! Rows into text, refusals, and what is written for the leaderboard.

use super::*;

/// An example that was predicted to be of a class.
pub(super) fn scored(prediction: i32, label: i32) -> Scored {
    let mut scores = vec![0.0; 3];
    scores[usize::try_from(prediction).unwrap()] = 1.0;
    Scored { scores, label, idx: 0, about: Value::Null }
}

fn task(name: &str) -> Box<dyn Task> {
    named(name, 0).unwrap()
}

fn check_of(task: &dyn Task, row: Value, pairs: &[(&str, &str)], label: Option<i32>) {
    let examples = task.examples(&row).unwrap();
    let [example] = examples.as_slice() else { panic!("one example of {row}") };
    let found: Vec<(&str, &str)> =
        example.pairs.iter().map(|(a, b)| (a.as_str(), b.as_deref().unwrap_or("-"))).collect();
    assert_eq!((found.as_slice(), example.label, example.idx), (pairs, label, 7), "{row}");
}

fn check(name: &str, row: Value, pairs: &[(&str, &str)], label: Option<i32>) {
    check_of(&*task(name), row, pairs, label);
}

#[test]
fn rows_become_text() {
    let row = json!({"premise": " A. ", "hypothesis": "B", "label": "not_entailment", "idx": 7});
    check("superglue/rte", row.clone(), &[(" A. ", "B")], Some(1));
    check("superglue/axg", row, &[(" A. ", "B")], Some(1));
    let row = json!({"sentence1": "A", "sentence2": "B", "label": "entailment", "idx": "7"});
    check("superglue/axb", row, &[("A", "B")], Some(0));
    let row = json!({"premise": "A", "hypothesis": "B", "label": "neutral", "idx": 7});
    check("superglue/cb", row, &[("A", "B")], Some(2));
    let row = json!({"question": "is it", "passage": "It - is.", "label": true, "idx": 7});
    check("superglue/boolq", row, &[("is it", "It - is.")], Some(1));
    let row = json!({"question": "is it", "passage": "It", "idx": 7});
    check("superglue/boolq", row, &[("is it", "It")], None);
    let mut row = json!({"premise": "It fell.", "choice1": "x", "choice2": "y", "question": "cause",
        "label": 1, "idx": 7});
    let pairs = [("It fell. because", "x"), ("It fell. because", "y")];
    check("superglue/copa", row.clone(), &pairs, Some(1));
    row["question"] = "effect".into();
    check("superglue/copa", row, &[("It fell. so", "x"), ("It fell. so", "y")], Some(1));
}

#[test]
fn wic_and_wsc_have_two_texts() {
    let row = json!({"word": "bank", "sentence1": "A bank.", "sentence2": "The bank ", "label": false,
        "idx": 7, "start1": 2, "end1": 6});
    let asked = "A bank. The bank  Does bank have the same meaning in both sentences?";
    check("superglue/wic", row.clone(), &[(asked, "-")], Some(0));
    let second = named("superglue/wic", 1).unwrap();
    check_of(&*second, row, &[("bank: A bank.", "bank: The bank ")], Some(0));

    // Two spaces, a span that is spelled otherwise, and a pronoun with its comma.
    let mut row = json!({"text": "Ann met Eve,  and she, too, left", "label": true, "idx": 7,
        "target": {"span1_text": "ann", "span1_index": 0, "span2_text": "she", "span2_index": 4}});
    let first = "she: Ann met Eve,  and she, too, left";
    check("superglue/wsc", row.clone(), &[(first, "ann")], Some(1));
    let second = named("superglue/wsc", 1).unwrap();
    check_of(&*second, row.clone(), &[("Ann met Eve, and *she,* too, left", "ann")], Some(1));
    row["target"]["span2_index"] = 7.into();
    let error = second.examples(&row).unwrap_err();
    assert_eq!(error.what, "`target.span2_index` is 7");
    assert_eq!(error.expected.unwrap(), "the number of a word of the text, below 7");
    check("superglue/wsc", row, &[(first, "ann")], Some(1));
}

#[test]
fn each_answer_of_multirc_is_an_example() {
    let mut row = json!({"idx": 3, "passage": {"text": "P.", "questions": [
        {"question": "Q1?", "idx": 5, "answers": [
            {"text": "yes", "idx": 8, "label": 1}, {"text": "no", "idx": 9, "label": 0}]},
        {"question": "Q2?", "idx": 6, "answers": [{"text": "it", "idx": 10, "label": 0}]},
    ]}});
    let multirc = task("superglue/multirc");
    let examples = multirc.examples(&row).unwrap();
    let found: Vec<_> = examples
        .iter()
        .map(|one| (one.pairs[0].1.as_deref().unwrap(), one.label.unwrap(), one.about.to_string()))
        .collect();
    let expected = [("Q1? yes", 1, "[3,5,8]"), ("Q1? no", 0, "[3,5,9]"), ("Q2? it", 0, "[3,6,10]")];
    assert_eq!(found, expected.map(|(text, label, about)| (text, label, about.to_owned())));
    assert!(examples.iter().all(|one| one.pairs[0].0 == "P."));
    let answers = &mut row["passage"]["questions"][0]["answers"];
    answers[1]["label"] = 2.into();
    let error = multirc.examples(&row).unwrap_err();
    assert_eq!(error.what, "`passage.questions[0].answers[1].label` is 2");
    row["passage"]["questions"] = json!([]);
    assert_eq!(multirc.examples(&row).unwrap_err().what, "`passage.questions` holds no answers");
}

#[test]
fn each_entity_of_record_is_an_example() {
    // Positions count characters: é is one. Paris occurs twice.
    let text = "Zoé left Paris\n@highlight\nParis is far";
    let mut row = json!({
        "idx": 1,
        "passage": {"text": text, "entities": [
            {"start": 0, "end": 2}, {"start": 9, "end": 13}, {"start": 26, "end": 30}]},
        "qas": [{"idx": 4, "query": "@placeholder is a town, @placeholder!",
            "answers": [{"start": 9, "end": 13, "text": "Paris"}]}],
    });
    let record = task("superglue/record");
    let examples = record.examples(&row).unwrap();
    let found: Vec<_> = examples
        .iter()
        .map(|one| (one.pairs[0].1.as_deref().unwrap(), one.label, one.idx))
        .collect();
    let paris = ("Paris is a town, Paris!", Some(1), 4);
    assert_eq!(found, [paris, ("Zoé is a town, Zoé!", Some(0), 4)]);
    assert_eq!(examples[0].pairs[0].0, "Zoé left Paris\n- Paris is far");
    assert_eq!(examples[1].about, json!({"query": 4, "entity": "Zoé", "answers": ["Paris"]}));

    row["qas"][0]["idx"] = json!({"passage": 1, "query": 6});
    row["qas"][0].as_object_mut().unwrap().remove("answers");
    let examples = record.examples(&row).unwrap();
    assert_eq!(
        (examples[0].idx, examples[0].label, &examples[0].about["answers"]),
        (6, None, &Value::Null)
    );

    row["passage"]["entities"][1]["end"] = 99.into();
    let error = record.examples(&row).unwrap_err();
    assert_eq!(error.what, "`passage.entities[1].end` is 99");
    row["passage"]["entities"] = json!([]);
    let error = record.examples(&row).unwrap_err();
    assert_eq!(error.what, "`passage.entities` is empty");
    assert!(error.hint.is_some());
}

fn check_refused(name: &str, row: Value, what: &str, expected: &str) -> Option<String> {
    let error = task(name).examples(&row).unwrap_err();
    assert_eq!((error.what.as_str(), error.expected.as_deref()), (what, Some(expected)));
    error.hint
}

#[test]
fn a_refused_row_names_its_field() {
    let rte = "superglue/rte";
    check_refused(rte, json!({"premise": "A"}), "`hypothesis` is missing", "a string");
    check_refused(rte, json!({"premise": 3}), "`premise` is 3", "a string");
    check_refused(rte, json!([1]), "the row is an array", "a JSON object with the task's fields");
    let row = json!({"premise": "A", "hypothesis": "B", "idx": -1});
    check_refused(rte, row, "`idx` is -1", "an integer from 0 to 4294967295");
    let row = json!({"premise": "A", "choice1": "x", "choice2": "y", "question": "why"});
    let asked = "\"cause\" or \"effect\"";
    check_refused("superglue/copa", row, "`question` is \"why\"", asked);
    let row = json!({"text": "A", "target": {"span1_text": "A"}});
    check_refused("superglue/wsc", row, "`target.span2_text` is missing", "a string");
}

#[test]
fn a_label_that_is_none_is_answered_with_those_there_are() {
    let mut row = json!({"premise": "A", "hypothesis": "B", "label": "entialment", "idx": 0});
    let labels = "a label of superglue/rte: entailment, not_entailment";
    let hint = check_refused("superglue/rte", row.clone(), "`label` is \"entialment\"", labels);
    assert_eq!(hint.unwrap(), "did you mean `entailment`?");
    row["label"] = "neutral".into();
    let hint = check_refused("superglue/rte", row, "`label` is \"neutral\"", labels);
    assert_eq!(hint, None);
    let row = json!({"question": "A", "passage": "B", "label": "true", "idx": 0});
    let labels = "a label of superglue/boolq: false, true";
    let hint = check_refused("superglue/boolq", row, "`label` is \"true\"", labels);
    assert_eq!(hint.unwrap(), "write it without quotes");
    let row =
        json!({"premise": "A", "choice1": "x", "choice2": "y", "question": "cause", "label": 2});
    let labels = "a label of superglue/copa: choice1, choice2";
    check_refused("superglue/copa", row, "`label` is 2", labels);
}

#[test]
fn tasks_are_found_by_name() {
    let tasks = built_in(0);
    for name in ptv2_common::spec::known_tasks() {
        assert!(tasks.iter().any(|task| task.name() == name), "{name} has a recipe");
    }
    for task in &tasks {
        assert_eq!(named(task.name(), 0).unwrap().folder(), task.folder());
        assert!(named(task.name(), task.templates()).is_err());
    }
    let error = named("superglue/copy", 0).err().unwrap();
    assert!(error.expected.unwrap().starts_with("one of superglue/boolq, superglue/cb, "));
    let copa = task("superglue/copa");
    assert_eq!((copa.choices(), copa.head_outputs(), copa.short_name()), (2, 1, "copa"));
    assert_eq!(task("superglue/cb").head_outputs(), 3);
    let rte = task("superglue/rte");
    for name in ["superglue/axb", "superglue/axg"] {
        let diagnostic = task(name);
        assert_eq!(diagnostic.trained_as(), Some(rte.name()));
        assert_eq!(diagnostic.labels(), rte.labels(), "a prefix of RTE answers");
        assert_eq!(diagnostic.file("test"), diagnostic.answer_file());
    }
}

#[test]
fn cb_reports_accuracy_macro_f1_and_their_mean() {
    let labels = [0, 0, 0, 1, 1, 2];
    let predictions = [0, 0, 1, 1, 1, 1];
    let rows: Vec<Scored> = predictions.iter().zip(labels).map(|(p, l)| scored(*p, l)).collect();
    let metrics = task("superglue/cb").metrics(&rows);
    // Class 0: 2·2/(2+3) = 4/5; class 1: 2·2/(4+2) = 2/3; class 2: 0/(0+1) = 0.
    let f1 = (0.8 + 2.0 / 3.0) / 3.0;
    let accuracy = 4.0 / 6.0;
    let expected = [("accuracy", accuracy), ("combined_score", (accuracy + f1) / 2.0), ("f1", f1)];
    assert_eq!(metrics.len(), expected.len());
    for ((name, value), (wanted, right)) in metrics.iter().zip(expected) {
        assert_eq!(name, wanted);
        assert!((value - right).abs() < 1e-12, "{name} is {value}, expected {right}");
    }
}

#[test]
fn the_first_of_equal_scores_is_predicted() {
    let scores = |scores: &[f32]| Scored { scores: scores.to_vec(), ..scored(0, 0) }.prediction();
    assert_eq!([scores(&[0.5, 0.5]), scores(&[-1.0, -0.5]), scores(&[0.0, 2.0, 2.0])], [0, 1, 1]);
}

fn check_answer(name: &str, file: &str, prediction: i32, label: Value) {
    let task = task(name);
    let rows = [Scored { idx: 12, ..scored(prediction, -1) }];
    assert_eq!(task.answers(&rows), [json!({"idx": 12, "label": label})], "{name}");
    assert_eq!(task.answer_file(), file);
}

#[test]
fn answers_are_spelled_as_the_leaderboard_wants_them() {
    check_answer("superglue/boolq", "BoolQ.jsonl", 1, "true".into());
    check_answer("superglue/cb", "CB.jsonl", 2, "neutral".into());
    check_answer("superglue/copa", "COPA.jsonl", 1, 1.into());
    check_answer("superglue/rte", "RTE.jsonl", 0, "entailment".into());
    check_answer("superglue/wic", "WiC.jsonl", 0, "false".into());
    check_answer("superglue/wsc", "WSC.jsonl", 0, "False".into());
    check_answer("superglue/axb", "AX-b.jsonl", 1, "not_entailment".into());
    check_answer("superglue/axg", "AX-g.jsonl", 0, "entailment".into());
    assert_eq!(task("superglue/multirc").answer_file(), "MultiRC.jsonl");
    assert_eq!(task("superglue/record").answer_file(), "ReCoRD.jsonl");
}
