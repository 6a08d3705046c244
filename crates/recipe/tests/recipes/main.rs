//! What a person sees who makes mistakes in a recipe.

mod foreign;
mod training;
mod values;

use std::path::Path;

use marill_numeric::{ActivationForm, SoftmaxForm};
use marill_recipe::{Grouping, LoraInit, Recipe, RecipeError};

const GOOD: &str = r#"
[model]
base_model = "base"

[[dataset]]
path = "rows.jsonl"
format = "classify"
labels = ["no", "yes"]

[freeze]
layers = 2

[lora]
rank = 4

[heads]
merge = 3

[output]
dir = "out"
"#;

fn problems(text: &str, overrides: &[&str]) -> Vec<String> {
    let overrides: Vec<String> = overrides.iter().map(|s| (*s).to_owned()).collect();
    match Recipe::parse(text, "r.toml", &overrides) {
        Err(RecipeError::Problems(all)) => all.iter().map(ToString::to_string).collect(),
        other => panic!("expected problems, got {other:?}"),
    }
}

#[test]
fn a_scale_over_the_root_of_the_rank_is_asked_for() {
    let text = GOOD.replace("rank = 4", "rank = 4\nrslora = true");
    let recipe = Recipe::parse(&text, "r.toml", &[]).unwrap();
    assert!(recipe.lora.as_ref().unwrap().rslora);
    let again = Recipe::parse(&recipe.to_toml(), "resolved.toml", &[]).unwrap();
    assert_eq!(again, recipe);
    assert!(
        problems(GOOD, &["lora.rslora=1"])[0].contains("`lora.rslora` takes true or false"),
        "a number is no answer"
    );
}

#[test]
fn factors_begin_at_random_or_from_the_data() {
    let set = |list: &[&str]| {
        let list: Vec<String> = list.iter().map(|s| (*s).to_owned()).collect();
        Recipe::parse(GOOD, "r.toml", &list)
    };
    let random = set(&[]).unwrap();
    assert!(
        !random.to_toml().contains("init_rows"),
        "a resolved recipe stays what it was"
    );
    let data = set(&["lora.init=data", "lora.init_rows=16"]).unwrap();
    let lora = data.lora.as_ref().unwrap();
    assert_eq!((lora.init, lora.init_rows), (LoraInit::Data, 16));
    let again = Recipe::parse(&data.to_toml(), "resolved.toml", &[]).unwrap();
    assert_eq!(again, data);
    let from = set(&["lora.init_from=runs/other"]).unwrap();
    let again = Recipe::parse(&from.to_toml(), "resolved.toml", &[]).unwrap();
    assert_eq!(again, from);
    let both = ["lora.init_from=runs/other", "lora.init=data"];
    assert!(problems(GOOD, &both)[0].contains("both say what the factors begin with"));
    for (set, said) in [
        ("lora.init_from=", "`lora.init_from` is empty"),
        ("lora.init=dat", "did you mean `data`?"),
        ("lora.init_rows=0", "`lora.init_rows` must be at least 1"),
        (
            "lora.init_rows=16",
            "does nothing without `lora.init = \"data\"`",
        ),
        ("lora.init_lora_weights=eva", "here it is `lora.init`"),
    ] {
        let all = problems(GOOD, &[set]);
        assert!(all[0].contains(said), "{set}: {all:#?}");
    }
}

#[test]
fn trained_norms_beside_factors_are_refused_with_the_reason() {
    for key in [
        "train_norms = true",
        "modules_to_save = [\"input_layernorm\"]",
    ] {
        let all = problems(&GOOD.replace("rank = 4", &format!("rank = 4\n{key}")), &[]);
        let name = key.split(' ').next().unwrap();
        assert!(
            all[0].contains(&format!("unknown key `lora.{name}`"))
                && all[0].contains("would cost two rounds per norm")
                && all[0].contains("without `[lora]`, gains are trained"),
            "{all:#?}"
        );
    }
}

#[test]
fn single_modules_have_ranks_of_their_own() {
    let text = GOOD.replace(
        "rank = 4",
        "rank = 4\nranks = { q_proj = 2, down_proj = 32 }",
    );
    let set = ["lora.ranks.k_proj=3".to_owned()];
    let recipe = Recipe::parse(&text, "r.toml", &set).unwrap();
    let ranks: Vec<usize> = recipe
        .lora
        .as_ref()
        .unwrap()
        .ranks
        .values()
        .copied()
        .collect();
    assert_eq!(ranks, [32, 3, 2], "down, k, q by name");
    let again = Recipe::parse(&recipe.to_toml(), "resolved.toml", &[]).unwrap();
    assert_eq!(again, recipe);
    for (ranks, said, hint) in [
        (
            "ranks = { q_proj = 0 }",
            "`lora.ranks.q_proj` must be at least 1",
            "leave the module out of `lora.target_modules`",
        ),
        ("ranks = { q = 2 }", "unknown key `lora.ranks.q`", ""),
        (
            "ranks = 8",
            "`lora.ranks` takes a table, not an integer",
            "",
        ),
        (
            "target_modules = [\"k_proj\"]\nranks = { q_proj = 2 }",
            "`lora.ranks.q_proj` is of no module in `lora.target_modules`",
            "name the module there too",
        ),
        (
            "rank_pattern = { q_proj = 2 }",
            "unknown key `lora.rank_pattern`",
            "here it is `lora.ranks`",
        ),
    ] {
        let all = problems(
            &GOOD.replace("rank = 4", &format!("rank = 4\n{ranks}")),
            &[],
        );
        assert!(
            all[0].contains(said) && all[0].contains(hint),
            "{ranks}: {all:#?}"
        );
    }
}

#[test]
fn defaults_are_written_out_and_read_back() {
    let recipe = Recipe::parse(GOOD, "r.toml", &[]).unwrap();
    assert_eq!(recipe.lora.as_ref().unwrap().target_modules.len(), 7);
    assert_eq!(recipe.heads.as_ref().unwrap().grouping, Grouping::Strided);
    assert_eq!(
        Recipe::parse(&recipe.to_toml(), "resolved.toml", &[]).unwrap(),
        recipe
    );
}

#[test]
fn every_mistake_is_reported_at_once_with_its_place() {
    let text = GOOD
        .replace("rank = 4", "rank = 0\nalhpa = 3\nlora_r = 8")
        .replace("layers = 2", "layers = \"two\"");
    let all = problems(&text, &[]);
    assert_eq!(all.len(), 4, "{all:#?}");
    assert_eq!(
        all[1],
        "`lora.rank` must be at least 1\n --> r.toml:14:8\n   | rank = 0\n   |        ^\n\n\
         hint: drop the `[lora]` table to train the private layers as a whole"
    );
    assert!(
        all[0].contains("`freeze.layers` takes a whole number, not a string"),
        "{}",
        all[0]
    );
    assert!(
        all.iter().any(
            |p| p.contains("did you mean `alpha`?") && p.contains("   | alhpa = 3\n   | ^^^^^")
        )
    );
    assert!(
        all.iter()
            .any(|p| p.ends_with("hint: here it is `lora.rank`"))
    );
}

#[test]
fn keys_of_other_tools_are_answered() {
    let all = problems(
        &format!("sequence_len = 512\nsample_packing = true\n{GOOD}"),
        &[],
    );
    assert!(
        all[0].contains("`sequence_len`") && all[0].ends_with("here it is `data.max_seq_len`"),
        "{}",
        all[0]
    );
    assert!(all[1].contains("not needed"), "{}", all[1]);
    let peft = "rank = 4\nuse_rslora = true\nalpha_pattern = { q_proj = 8 }";
    let all = problems(&GOOD.replace("rank = 4", peft), &[]);
    assert!(all[0].ends_with("here it is `lora.rslora`"), "{}", all[0]);
    assert!(all[1].contains("one `lora.alpha` serves"), "{}", all[1]);
}

#[test]
fn broken_toml_and_missing_tables_are_reported_together() {
    let all = problems("[model]\nbase_model = \n[lora]\n", &[]);
    assert!(all.iter().any(|p| p.contains("r.toml:2:")), "{all:#?}");
    assert!(
        all.iter().any(|p| p.contains("`lora.rank` is missing")),
        "{all:#?}"
    );
    assert!(
        all.iter().any(|p| p.contains("`[[dataset]]` is missing")),
        "{all:#?}"
    );
    let all = problems(&"{\"text\": \"no recipe\"}\n".repeat(100), &[]);
    // A hundred errors are summed up in one, so that the first ones are read.
    assert!(
        all.len() < 10 && all.iter().any(|p| p.contains("95 more such errors")),
        "{all:#?}"
    );
}

#[test]
fn overrides_set_keys_and_are_checked_like_the_file() {
    let set = |list: &[&str]| {
        let list: Vec<String> = list.iter().map(|s| (*s).to_owned()).collect();
        Recipe::parse(GOOD, "r.toml", &list)
    };
    let recipe = set(&[
        "train.max_steps=40",
        "output.dir=runs/a",
        "dataset.0.limit=7",
        "optimizer.learning_rate=1e-4",
    ]);
    let recipe = recipe.unwrap();
    assert_eq!(
        (recipe.train.max_steps, recipe.output.dir.as_str()),
        (Some(40), "runs/a")
    );
    assert_eq!(
        (recipe.dataset[0].limit, recipe.optimizer.learning_rate),
        (Some(7), 1e-4)
    );
    assert!(problems(GOOD, &["train.max_step=40"])[0].contains("did you mean `max_steps`?"));
    assert!(problems(GOOD, &["max_steps"])[0].contains("is not `key=value`"));
    assert!(problems(GOOD, &["train.max_steps=0"])[0].contains("--set train.max_steps=0"));
    assert!(problems(GOOD, &["dataset.3.limit=1"])[0].contains("there are 1 data sets"));
}

#[test]
fn the_recipes_of_the_repository_are_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let mut count = 0;
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            Recipe::read(&path, &[]).unwrap_or_else(|e| panic!("{e}"));
            count += 1;
        }
    }
    // agnews, trec, multi30k and mbpp at least.
    assert!(count >= 4, "{count} recipes");
}

#[test]
fn running_text_has_no_rows_to_leave_out() {
    let text = GOOD.replace(
        "format = \"classify\"",
        "format = \"text\"\nexclude = [\"test.txt\"]",
    );
    assert!(
        problems(&text, &[])
            .iter()
            .any(|p| p.contains("a `text` data set has none"))
    );
}

#[test]
fn keys_that_may_be_left_out_are_a_list_of_names() {
    let good = GOOD.replace(
        "\"base\"",
        "\"base\"\nignore = [\"hidden_act\", \"model.layers.*.bias\"]",
    );
    let recipe = Recipe::parse(&good, "r.toml", &[]).unwrap();
    assert_eq!(recipe.model.ignore, ["hidden_act", "model.layers.*.bias"]);
    assert_eq!(
        Recipe::parse(&recipe.to_toml(), "resolved.toml", &[]).unwrap(),
        recipe
    );
    assert!(Recipe::parse(&good.replace("[\"hidden_act\", ", "[7, "), "r.toml", &[]).is_err());
}

#[test]
fn dropout_stages_and_revisions_are_checked() {
    let good = GOOD
        .replace("rank = 4", "rank = 4\ndropout = 0.1")
        .replace("\"base\"", "\"org/name\"\nrevision = \"v1\"")
        + "[distill]\nteacher = \"base\"\nstages = [{ share = 0.25, hidden = 1.0 }, { share = \
           0.75, logits = 0.5, labels = 0.5 }]\n";
    let recipe = Recipe::parse(&good, "r.toml", &[]).unwrap();
    assert_eq!(
        (
            recipe.lora.as_ref().unwrap().dropout,
            recipe.model.revision.as_deref()
        ),
        (0.1, Some("v1"))
    );
    assert_eq!(recipe.distill.as_ref().unwrap().stages()[1].labels, 0.5);
    assert_eq!(
        Recipe::parse(&recipe.to_toml(), "resolved.toml", &[]).unwrap(),
        recipe
    );

    for (wrong, said) in [
        (
            good.replace("dropout = 0.1", "dropout = 1.0"),
            "`lora.dropout` must be between 0 and 0.95",
        ),
        (
            good.replace("dropout = 0.1", "lora_dropout = 0.1"),
            "hint: here it is `lora.dropout`",
        ),
        (
            good.replace("0.75, logits", "0.5, logits"),
            "the shares of `distill.stages` are 0.75 together",
        ),
        (
            good.replace("hidden = 1.0", "hidden = 0.0"),
            "no share or no weight",
        ),
        (
            good.replace("hidden = 1.0", "hiden = 1.0"),
            "did you mean `hidden`?",
        ),
        (
            good.replace("share = 0.25, ", ""),
            "`distill.stages.share` is missing",
        ),
        (
            good.replace("stages = ", "weight = 0.5\nstages = "),
            "say the same thing twice",
        ),
        (
            good.replace("stages = [", "stages = 3 #["),
            "a list of tables: `[[distill.stages]]`",
        ),
    ] {
        let all = problems(&wrong, &[]);
        assert!(all.iter().any(|p| p.contains(said)), "{said}: {all:#?}");
    }
}

#[test]
fn keys_of_a_distillation_need_each_other() {
    let good = format!(
        "{GOOD}[distill]\nteacher = \"base\"\nstages = [{{ share = 0.25, hidden = 1.0 }}, \
         {{ share = 0.75, logits = 0.5, labels = 0.5 }}]\n"
    );
    assert!(Recipe::parse(&good, "r.toml", &[]).is_ok());
    for (wrong, said) in [
        (
            good.replace("hidden = 1.0", "relations = 1.0"),
            "leaves the last layer's other maps untrained",
        ),
        (
            good.replace("stages = ", "kept_tokens = 8\nstages = "),
            "`distill.kept_tokens` needs `distill.keep_logits`",
        ),
        (
            good.replace("stages = ", "relation_heads = 3\nstages = "),
            "`relations`, which no stage asks for",
        ),
        (
            good.replace("stages = ", "fine_tune = { max_tokens = 9 }\nstages = "),
            "for a teacher that is trained first",
        ),
        (
            good.replace("stages = ", "keep_logits = \"top-k\"\nstages = ")
                .replace("logits = 0.5, ", ""),
            "keeps logits that no stage asks for",
        ),
    ] {
        let all = problems(&wrong, &[]);
        assert!(all.iter().any(|p| p.contains(said)), "{said}: {all:#?}");
    }
}

#[test]
fn output_folders_of_every_name_are_taken() {
    for dir in ["/tmp/a", "runs/..", ".", "2026"] {
        let text = GOOD.replace("\"out\"", &format!("\"{dir}\""));
        assert!(Recipe::parse(&text, "r.toml", &[]).is_ok(), "{dir}");
    }
}

#[test]
fn mistakes_without_number_are_reported_in_linear_time() {
    let lines: String = (0..100_000).map(|n| format!("k{n} = {n}\n")).collect();
    let one_line = format!(
        "[model]\narchitecture = {{ {} }}\n",
        (0..20_000)
            .map(|n| format!("k{n} = {n}"))
            .collect::<Vec<_>>()
            .join(", ")
    );
    for (text, count) in [
        (format!("{lines}{GOOD}"), 100_000),
        (format!("{GOOD}\n[train]\n{lines}"), 100_000),
    ] {
        let start = std::time::Instant::now();
        assert_eq!(problems(&text, &[]).len(), count);
        // Twenty times what it takes on a busy machine; the square of it took minutes.
        assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
    }
    let start = std::time::Instant::now();
    let all = problems(&GOOD.replace("[model]\n", &one_line), &[]);
    // Time as above; as many problems as the line has keys that are none.
    assert!(
        all.len() > 20_000 && start.elapsed().as_secs() < 60,
        "{:?}",
        start.elapsed()
    );
    let long = format!(
        "{GOOD}\n[train]\nx = \"{}\" # {}\n",
        "ü".repeat(50_000),
        "y".repeat(50_000)
    );
    let all = problems(&long, &[]);
    // A line that is quoted is cut to what a terminal shows.
    assert!(
        all[0].len() < 1000 && all[0].contains("   | x = \"ü"),
        "{}",
        all[0]
    );
}

#[test]
fn approximations_are_read_written_and_checked() {
    let recipe = Recipe::parse(GOOD, "r.toml", &[]).unwrap();
    assert!(recipe.approx.is_none() && !recipe.to_toml().contains("approx"));
    let text = format!("{GOOD}\n[approx]\nactivation = \"quad\"\n");
    let recipe = Recipe::parse(&text, "r.toml", &[]).unwrap();
    assert_eq!(recipe.approx.activation, Some(ActivationForm::Quad));
    assert_eq!(
        Recipe::parse(&recipe.to_toml(), "resolved.toml", &[]).unwrap(),
        recipe
    );
    for (softmax, form) in [
        ("clipped", SoftmaxForm::Clipped),
        ("2relu", SoftmaxForm::Relu),
        ("2quad", SoftmaxForm::Quad),
    ] {
        let set = format!("approx.softmax=\"{softmax}\"");
        let recipe = Recipe::parse(GOOD, "r.toml", &[set]).unwrap();
        assert_eq!(recipe.approx.softmax, Some(form));
        assert_eq!(
            Recipe::parse(&recipe.to_toml(), "resolved.toml", &[]).unwrap(),
            recipe
        );
    }
    let clipped = "approx.softmax=clipped";
    let bounded = Recipe::parse(GOOD, "r.toml", &[clipped.into(), "approx.bound=6.5".into()]);
    assert_eq!(bounded.unwrap().approx.bound, Some(6.5));
    for (sets, expected) in [
        (&["approx.bound=6.5"][..], "`approx.bound` does nothing"),
        (&["approx.softmax=relu"], "`approx.softmax`"),
        (&[clipped, "approx.bound=100"], "`approx.bound`"),
        (
            &["approx.softmax=\"2quad\"", "export.rounding=stochastic"],
            "needs `export.rounding = \"exact\"`",
        ),
    ] {
        let all = problems(GOOD, sets);
        assert!(all[0].contains(expected), "{}", all[0]);
    }
    let all = problems(GOOD, &["approx.activation=relu"]);
    assert!(all[0].contains("`approx.activation`"), "{}", all[0]);
    let all = problems(GOOD, &["approx.activations=quad"]);
    assert!(all[0].contains("did you mean `activation`?"), "{}", all[0]);
}
