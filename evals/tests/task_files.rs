//! Tasks of one's own, read from files.

use marill_evals::{Kind, Task};

const MINE: &str = r#"name = "mine"
version = 1
kind = "classify"

[dataset]
path = "rows.tsv"
format = "classify"
label = "1"
template = "{0}"
labels = ["no", "yes", "perhaps"]
"#;

fn read(text: &str) -> Result<Task, String> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("rows.tsv"), "fine\t1\ndull\tperhaps\n").unwrap();
    let path = dir.path().join("mine.toml");
    std::fs::write(&path, text).unwrap();
    let task = Task::from_file(&path).map_err(|error| error.to_string())?;
    // Its rows are found beside it.
    let labels = task
        .examples(None, None)
        .map_err(|error| error.to_string())?;
    assert_eq!(
        labels.iter().map(|row| row.label).collect::<Vec<_>>(),
        [Some(1), Some(2)]
    );
    Ok(task)
}

#[test]
fn a_task_file_is_a_task() {
    let task = read(MINE).unwrap();
    assert_eq!((task.name.as_str(), task.kind), ("mine", Kind::Classify));
    assert!(Task::is_file_name("mine.toml") && !Task::is_file_name("agnews"));
}

#[test]
fn mistakes_of_a_task_file_are_named_with_their_place() {
    for (from, to, said) in [
        (
            "version = 1",
            "version = 1\nmetric = \"acc\"",
            "line 3, column 1",
        ),
        ("label = \"1\"", "labell = \"1\"", "unknown field `labell`"),
        ("\"mine\"", "\"agnews\"", "is a task of the program"),
        ("\"mine\"", "\"recipe\"", "is a task of the program"),
        ("version = 1", "version = 0", "`version` counts from 1"),
        (
            "version = 1",
            "version = 1\nwindow = 0",
            "`window` is from 2",
        ),
        (
            "kind = \"classify\"",
            "kind = \"generate\"",
            "takes rows of `dataset.format`",
        ),
        (
            "kind = \"classify\"",
            "kind = \"rank\"",
            "unknown variant `rank`",
        ),
        (", \"yes\", \"perhaps\"", "", "at least two labels"),
        ("\"perhaps\"", "\"YES\"", "`dataset.labels` has `YES` twice"),
        (
            "label = \"1\"",
            "label = \"1\"\nlimit = 3",
            "`dataset.limit` is for training",
        ),
        (
            "label = \"1\"",
            "label = \"1\"\ncompletion = \"x\"",
            "`dataset.completion` does",
        ),
    ] {
        let error = read(&MINE.replace(from, to)).unwrap_err();
        assert!(
            error.contains(said) && error.contains("mine.toml"),
            "{to}: {error}"
        );
    }
}
