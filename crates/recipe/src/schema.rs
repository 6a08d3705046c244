//! Checks a recipe against a table of its keys, so that every mistake is reported at once and with
//! its place.

use std::ops::Range;

use toml::{
    Spanned, Table, Value,
    de::{DeTable, DeValue},
};

use crate::{
    Dataset, Distill, Format, Lora, Problem, Recipe, RecipeError, Style, compat, error::Lines,
    recipe::MODULES,
};

/// What a key takes.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    /// The name of a file or folder.
    Path,
    OneOf(&'static [&'static str]),
    /// A whole number of at least so much.
    Whole(i64),
    /// A whole number in a closed interval.
    Within(i64, i64),
    /// A number in a closed interval.
    Number(f64, f64),
    /// A number of at least so much.
    AtLeast(f64),
    /// A number above zero.
    Positive,
    /// A number above zero, and at most so much.
    UpTo(f64),
    Flag,
    Texts,
    Paths,
    /// A list out of these.
    Some(&'static [&'static str]),
    Table(&'static [(&'static str, Kind)]),
    Tables(&'static [(&'static str, Kind)]),
}

use Kind::{AtLeast, Flag, Number, OneOf, Path, Paths, Positive, Text, Texts, UpTo, Whole, Within};

/// What nobody needs and no memory holds: rows of a step, tokens of a row, ranks of a matrix.
const MANY: i64 = 1_000_000;
/// Steps that no run comes to.
const STEPS: i64 = 1_000_000_000;

const MODEL: &[(&str, Kind)] = &[
    ("base_model", Path),
    ("revision", Text),
    ("ignore", Texts),
    ("init", OneOf(&["pretrained", "random"])),
    (
        "architecture",
        Kind::Table(&[
            ("hidden_size", Whole(1)),
            ("intermediate_size", Whole(1)),
            ("num_hidden_layers", Whole(1)),
            ("num_attention_heads", Whole(1)),
            ("num_key_value_heads", Whole(1)),
            ("head_dim", Whole(2)),
            ("max_position_embeddings", Whole(1)),
            ("rope_theta", Positive),
        ]),
    ),
];

const DATASET: &[(&str, Kind)] = &[
    ("path", Path),
    ("target_path", Path),
    (
        "format",
        OneOf(&["classify", "instruct", "chat", "translate", "text"]),
    ),
    ("style", OneOf(&["chat", "plain"])),
    ("system", Text),
    ("template", Text),
    ("completion", Text),
    ("label", Text),
    ("labels", Texts),
    ("label_codes", Texts),
    ("exclude", Paths),
    ("limit", Whole(1)),
    ("weight", UpTo(1e4)),
];

const TRAIN: &[(&str, Kind)] = &[
    ("epochs", UpTo(1e6)),
    ("max_steps", Within(1, STEPS)),
    ("max_tokens", Whole(1)),
    ("micro_batch_size", Within(1, MANY)),
    ("gradient_accumulation_steps", Within(1, MANY)),
    ("max_grad_norm", Positive),
    ("seed", Whole(0)),
    ("checkpoint_steps", Within(1, STEPS)),
    (
        "gradient_checkpointing",
        OneOf(&["auto", "always", "never"]),
    ),
    ("quantize_last_steps", Within(0, STEPS)),
];

const STAGE: &[(&str, Kind)] = &[
    ("share", Number(0.0, 1.0)),
    ("hidden", Number(0.0, 1e6)),
    ("logits", Number(0.0, 1e6)),
    ("labels", Number(0.0, 1e6)),
];

const OPTIMIZER: &[(&str, Kind)] = &[
    ("kind", OneOf(&["adamw"])),
    ("learning_rate", AtLeast(1e-12)),
    ("weight_decay", Number(0.0, 10.0)),
    ("beta1", Number(0.0, 0.999_999)),
    ("beta2", Number(0.0, 0.999_999)),
    ("lr_scheduler", OneOf(&["cosine", "linear", "constant"])),
    ("warmup_ratio", Number(0.0, 1.0)),
];

const ROOT: &[(&str, Kind)] = &[
    ("model", Kind::Table(MODEL)),
    (
        "tokenizer",
        Kind::Table(&[("vocab_size", Within(300, MANY))]),
    ),
    ("dataset", Kind::Tables(DATASET)),
    (
        "data",
        Kind::Table(&[
            ("max_seq_len", Within(2, MANY)),
            ("val_fraction", Number(0.0, 0.9)),
            ("train_on_input", Flag),
            ("train_on", OneOf(&["all", "last"])),
        ]),
    ),
    (
        "freeze",
        Kind::Table(&[("layers", Within(0, MANY)), ("embedding", Flag)]),
    ),
    (
        "lora",
        Kind::Table(&[
            ("rank", Within(1, MANY)),
            ("alpha", UpTo(1e9)),
            ("dropout", Number(0.0, 0.95)),
            ("target_modules", Kind::Some(&MODULES)),
        ]),
    ),
    (
        "heads",
        Kind::Table(&[
            ("merge", Within(1, MANY)),
            ("grouping", OneOf(&["strided", "adjacent"])),
            ("scale", Number(1e-6, 1e3)),
            ("allow_kv_collapse", Flag),
        ]),
    ),
    (
        "distill",
        Kind::Table(&[
            ("teacher", Path),
            ("revision", Text),
            ("temperature", Number(1e-3, 1e3)),
            ("weight", Number(0.0, 1.0)),
            ("stages", Kind::Tables(STAGE)),
        ]),
    ),
    ("train", Kind::Table(TRAIN)),
    ("optimizer", Kind::Table(OPTIMIZER)),
    (
        "export",
        Kind::Table(&[
            ("frac_bits", Whole(8)),
            ("wire_bits", Whole(24)),
            ("rounding", OneOf(&["exact", "stochastic"])),
            ("reveal", OneOf(&["token", "logits"])),
        ]),
    ),
    (
        "eval",
        Kind::Table(&[
            ("tasks", Texts),
            ("path", Path),
            ("target_path", Path),
            ("every_steps", Within(1, STEPS)),
            ("min", Number(0.0, 1000.0)),
        ]),
    ),
    ("output", Kind::Table(&[("dir", Path)])),
];

/// Keys that a recipe cannot do without.
const NEEDED: &[(&str, &[&str])] = &[
    ("model", &[]),
    (
        "model.architecture",
        &[
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
        ],
    ),
    (
        "model.architecture",
        &["num_key_value_heads", "head_dim", "max_position_embeddings"],
    ),
    ("tokenizer", &["vocab_size"]),
    ("dataset", &["path", "format"]),
    ("lora", &["rank"]),
    ("heads", &["merge"]),
    ("distill", &["teacher"]),
    ("distill.stages", &["share"]),
    ("output", &["dir"]),
];

/// Keys of other tools and ours in their place.
const FOREIGN: &[(&str, &str)] = &[
    ("lora_r", "lora.rank"),
    ("r", "lora.rank"),
    ("lora_rank", "lora.rank"),
    ("lora_dropout", "lora.dropout"),
    ("lora_alpha", "lora.alpha"),
    ("lora_target_modules", "lora.target_modules"),
    ("lora_modules_to_train", "lora.target_modules"),
    ("sequence_len", "data.max_seq_len"),
    ("max_seq_length", "data.max_seq_len"),
    ("max_length", "data.max_seq_len"),
    ("max_seq_len", "data.max_seq_len"),
    ("val_set_size", "data.val_fraction"),
    ("train_on_inputs", "data.train_on_input"),
    ("base_model", "model.base_model"),
    ("model_name_or_path", "model.base_model"),
    ("datasets", "dataset"),
    ("type", "dataset.format"),
    ("num_epochs", "train.epochs"),
    ("num_train_epochs", "train.epochs"),
    ("epochs", "train.epochs"),
    ("max_steps", "train.max_steps"),
    ("per_device_train_batch_size", "train.micro_batch_size"),
    ("micro_batch_size", "train.micro_batch_size"),
    ("batch_size", "train.micro_batch_size"),
    (
        "gradient_accumulation_steps",
        "train.gradient_accumulation_steps",
    ),
    ("gradient_clipping", "train.max_grad_norm"),
    ("max_grad_norm", "train.max_grad_norm"),
    ("save_steps", "train.checkpoint_steps"),
    ("eval_steps", "eval.every_steps"),
    ("learning_rate", "optimizer.learning_rate"),
    ("lr", "optimizer.learning_rate"),
    ("lr_scheduler_type", "optimizer.lr_scheduler"),
    ("lr_scheduler", "optimizer.lr_scheduler"),
    ("weight_decay", "optimizer.weight_decay"),
    ("warmup_ratio", "optimizer.warmup_ratio"),
    ("output_dir", "output.dir"),
    ("seed", "train.seed"),
    ("unfrozen_parameters", "freeze.layers"),
    ("freeze_layers", "freeze.layers"),
    ("quantize_last_steps", "train.quantize_last_steps"),
];

/// Keys of other tools that have no counterpart, and why.
const NOT_NEEDED: &[(&str, &str)] = &[
    (
        "sample_packing",
        "rows are always laid one after another without padding",
    ),
    (
        "packing",
        "rows are always laid one after another without padding",
    ),
    (
        "pad_to_sequence_len",
        "rows are always laid one after another without padding",
    ),
    ("adapter", "write a `[lora]` table instead"),
    (
        "load_in_4bit",
        "weights are dequantized when a GGUF file is read",
    ),
    (
        "load_in_8bit",
        "weights are dequantized when a GGUF file is read",
    ),
    ("bf16", "training runs in 32-bit floats"),
    ("fp16", "training runs in 32-bit floats"),
];

/// Syntax errors of a file that are told.
const SYNTAX_ERRORS: usize = 5;

struct Checker<'a> {
    file: &'a str,
    lines: Lines<'a>,
    /// Overrides need not be whole tables.
    partial: bool,
    problems: Vec<Problem>,
}

pub(crate) fn parse(text: &str, name: &str, overrides: &[String]) -> Result<Recipe, RecipeError> {
    let mut problems = check(text, name, false);
    let mut edits = Vec::new();
    for given in overrides {
        match edit(given) {
            Ok((path, document)) => {
                problems.extend(check(&document, &format!("--set {given}"), true));
                edits.push((path, document));
            }
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(RecipeError::Problems(problems));
    }
    let fail = |message: String| {
        RecipeError::Problems(vec![Problem {
            message,
            hint: None,
            place: None,
        }])
    };
    let mut table: Table = toml::from_str(text).map_err(|e| fail(e.to_string()))?;
    compat::rename(&mut table);
    for (path, document) in edits {
        let value: Table = toml::from_str(&document).map_err(|e| fail(e.to_string()))?;
        apply(&mut table, &path, value).map_err(fail)?;
    }
    let recipe: Recipe = table
        .try_into()
        .map_err(|e: toml::de::Error| fail(format!("{name}: {}", e.message())))?;
    cross_check(&recipe, name)?;
    Ok(recipe)
}

/// Takes message and hint of a mistake.
type Add<'a> = dyn FnMut(&str, &str) + 'a;

/// Conditions between keys.
fn cross_check(recipe: &Recipe, name: &str) -> Result<(), RecipeError> {
    let mut problems = Vec::new();
    let mut add = |message: &str, hint: &str| {
        problems.push(Problem {
            message: format!("{name}: {message}"),
            hint: Some(hint.into()),
            place: None,
        });
    };
    check_model(recipe, &mut add);
    if let Some(lora) = &recipe.lora {
        check_lora(lora, &mut add);
    }
    for dataset in &recipe.dataset {
        check_dataset(dataset, &mut add);
    }
    if recipe
        .eval
        .as_ref()
        .is_some_and(|eval| eval.target_path.is_some() && eval.path.is_none())
    {
        add(
            "`eval.target_path` is the other side of `eval.path`, which is missing",
            "name both files",
        );
    }
    if let Some(distill) = &recipe.distill {
        check_distill(distill, &mut add);
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(RecipeError::Problems(problems))
    }
}

fn check_model(recipe: &Recipe, add: &mut Add<'_>) {
    let random = recipe.model.init == crate::Init::Random;
    if !random && recipe.model.base_model.is_none() {
        add(
            "`model.base_model` is missing",
            "name a checkpoint folder or a `.gguf` file, or set `init = \"random\"`",
        );
    }
    if random && (recipe.model.architecture.is_none() || recipe.tokenizer.is_none()) {
        add(
            "`init = \"random\"` needs `[model.architecture]` and `[tokenizer]`",
            "see `recipes/base.toml`",
        );
    }
    if random && (recipe.lora.is_some() || recipe.freeze.layers > 0) {
        add(
            "`init = \"random\"` leaves nothing to freeze",
            "drop `[lora]` and `[freeze]`, or name a base model",
        );
    }
    if random && (recipe.model.base_model.is_some() || recipe.model.revision.is_some()) {
        add(
            "`init = \"random\"` starts from no model",
            "drop `model.base_model` and `model.revision`",
        );
    }
    if !random && (recipe.model.architecture.is_some() || recipe.tokenizer.is_some()) {
        add(
            "`[model.architecture]` and `[tokenizer]` belong to `init = \"random\"`",
            "a base model has its own; drop the tables",
        );
    }
}

fn check_lora(lora: &Lora, add: &mut Add<'_>) {
    if lora.target_modules.is_empty() {
        add(
            "`lora.target_modules` is empty, so nothing would be trained",
            "leave it out for all linear maps",
        );
    }
    if let Some(twice) = repeated(&lora.target_modules) {
        add(
            &format!("`lora.target_modules` has `{twice}` twice"),
            "name each once",
        );
    }
}

fn check_dataset(dataset: &Dataset, add: &mut Add<'_>) {
    for key in without_use(dataset) {
        let format = format!("{:?}", dataset.format).to_lowercase();
        add(
            &format!("`dataset.{key}` does nothing in a data set of format `{format}`"),
            "leave it out",
        );
    }
    if dataset.format == Format::Classify && dataset.labels.len() < 2 {
        add(
            "a `classify` data set needs at least two `labels`",
            "labels = [\"negative\", \"positive\"]",
        );
    }
    for (key, names) in [
        ("labels", &dataset.labels),
        ("label_codes", &dataset.label_codes),
    ] {
        if let Some(reason) = confusing(names) {
            add(
                &format!("`dataset.{key}` {reason}"),
                "an answer or a row must tell the labels apart",
            );
        }
    }
    check_label_codes(dataset, add);
    if dataset.format == Format::Text && !dataset.exclude.is_empty() {
        add(
            "`dataset.exclude` compares prompts, and a `text` data set has none",
            "drop `exclude`",
        );
    }
}

fn check_label_codes(dataset: &Dataset, add: &mut Add<'_>) {
    let same = |a: &String, b: &String| a.trim().eq_ignore_ascii_case(b.trim());
    let named = |(nth, code): (usize, &String)| {
        dataset
            .labels
            .iter()
            .enumerate()
            .any(|(other, label)| other != nth && same(label, code))
            .then(|| code.clone())
    };
    if let Some(code) = dataset.label_codes.iter().enumerate().find_map(named) {
        add(
            &format!("`dataset.label_codes` has `{code}`, which is the name of another label"),
            "a row that says it could mean either",
        );
    }
    if !dataset.label_codes.is_empty() && dataset.label_codes.len() != dataset.labels.len() {
        let (codes, labels) = (dataset.label_codes.len(), dataset.labels.len());
        add(
            &format!("`dataset.label_codes` has {codes} codes for {labels} labels"),
            "one code for each label, in the same order",
        );
    }
}

fn check_distill(distill: &Distill, add: &mut Add<'_>) {
    let share: f64 = distill.stages().iter().map(|stage| stage.share).sum();
    if (share - 1.0).abs() > 1e-6 {
        add(
            &format!("the shares of `distill.stages` are {share} together"),
            "they are parts of 1: 0.3 and 0.7",
        );
    }
    if distill
        .stages()
        .iter()
        .any(|s| s.share == 0.0 || s.hidden + s.logits + s.labels == 0.0)
    {
        add(
            "a stage of `distill.stages` has no share or no weight",
            "give it `hidden`, `logits` or `labels`",
        );
    }
    if distill.weight.is_some() && !distill.stages.is_empty() {
        add(
            "`distill.weight` and `distill.stages` say the same thing twice",
            "drop `weight`",
        );
    }
}

/// Keys of a data set that its format has no use for.
fn without_use(dataset: &Dataset) -> Vec<&'static str> {
    let (classify, chat) = (
        dataset.format == Format::Classify,
        dataset.format == Format::Chat,
    );
    let text = dataset.format == Format::Text;
    let plain = dataset.style == Style::Plain;
    let written = [
        (
            "target_path",
            dataset.target_path.is_some(),
            classify || chat || text,
        ),
        ("style", plain, chat),
        ("system", dataset.system.is_some(), chat || text || plain),
        ("template", dataset.template.is_some(), chat),
        (
            "completion",
            dataset.completion.is_some(),
            classify || chat || text,
        ),
        ("label", dataset.label.is_some(), !classify),
        ("labels", !dataset.labels.is_empty(), !classify),
        ("label_codes", !dataset.label_codes.is_empty(), !classify),
    ];
    written
        .into_iter()
        .filter(|(_, written, useless)| *written && *useless)
        .map(|(key, ..)| key)
        .collect()
}

fn repeated(names: &[String]) -> Option<&String> {
    names
        .iter()
        .enumerate()
        .find(|(nth, name)| names[..*nth].contains(name))
        .map(|(_, name)| name)
}

/// Why labels or their codes cannot be told apart; capitals and white space around them do not
/// count in rows.
fn confusing(names: &[String]) -> Option<String> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if name.trim().is_empty() {
            return Some("has an empty name".into());
        }
        if name.trim().contains(['\n', '\r']) {
            return Some(format!(
                "has a line break in `{}`, and an answer is one line",
                name.trim().escape_debug()
            ));
        }
        if !seen.insert(name.trim().to_ascii_lowercase()) {
            return Some(format!("has `{}` twice", name.trim()));
        }
    }
    None
}

fn check(text: &str, name: &str, partial: bool) -> Vec<Problem> {
    let mut checker = Checker {
        file: name,
        lines: Lines::of(text),
        partial,
        problems: Vec::new(),
    };
    let (root, errors) = DeTable::parse_recoverable(text);
    // What is no TOML at all is wrong in every line.
    let more = errors.len().saturating_sub(SYNTAX_ERRORS);
    for (nth, error) in errors.iter().take(SYNTAX_ERRORS).enumerate() {
        let hint = (more > 0 && nth + 1 == SYNTAX_ERRORS)
            .then(|| format!("{more} more such errors; is it a TOML file?"));
        checker.add(
            error.message().to_owned(),
            hint,
            error.span().unwrap_or(0..0),
        );
    }
    checker.table("", root.get_ref(), ROOT, 0..0);
    // As they stand in the file; what is missing altogether comes last.
    let place = |p: &Problem| {
        p.place
            .as_ref()
            .map_or((usize::MAX, 0), |p| (p.line, p.column))
    };
    checker.problems.sort_by_key(place);
    checker.problems
}

/// `a.b=value` as a path and a document that holds just this key.
fn edit(given: &str) -> Result<(Vec<String>, String), Problem> {
    let bad = |hint: &str| {
        let message = format!("`--set {given}` is not `key=value`");
        Problem {
            message,
            hint: Some(hint.into()),
            place: None,
        }
    };
    let (path, value) = given
        .split_once('=')
        .ok_or_else(|| bad("write `--set train.max_steps=40`"))?;
    let mut path: Vec<String> = path
        .trim()
        .split('.')
        .map(|p| p.trim().to_owned())
        .collect();
    if let [table, key] = path.as_mut_slice() {
        *key = compat::key(table, key).into();
    }
    let plain = |p: &String| {
        !p.is_empty()
            && p.chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
    };
    if path.len() < 2 || !path.iter().all(plain) {
        return Err(bad("a key names its table: `--set train.max_steps=40`"));
    }
    let value = value.trim();
    // A word that is no TOML value is a text: people write `--set output.dir=runs/a`.
    let value = match toml::from_str::<Table>(&format!("x = {value}")) {
        Ok(_) => value.to_owned(),
        // A number that is too large is still no text.
        Err(_) if value.parse::<f64>().is_ok() => value.to_owned(),
        Err(_) => Value::from(value).to_string(),
    };
    let (last, tables) = path.split_last().expect("at least two parts");
    let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
    let header = match tables[..] {
        ["dataset", _] => "[[dataset]]".to_owned(),
        _ => format!("[{}]", tables.join(".")),
    };
    Ok((path.clone(), format!("{header}\n{last} = {value}\n")))
}

fn apply(table: &mut Table, path: &[String], mut document: Table) -> Result<(), String> {
    if path[0] == "dataset" {
        let index: usize = path[1]
            .parse()
            .map_err(|_| format!("`--set {}`: `{}` is no number", path.join("."), path[1]))?;
        let rows = document
            .remove("dataset")
            .and_then(|v| v.as_array().cloned())
            .unwrap_or_default();
        let value = rows
            .first()
            .and_then(|r| r.get(&path[2]).cloned())
            .ok_or("nothing to set")?;
        let rows = table
            .get_mut("dataset")
            .and_then(Value::as_array_mut)
            .ok_or("the recipe has no `[[dataset]]`")?;
        let count = rows.len();
        let row = rows.get_mut(index).and_then(Value::as_table_mut);
        row.ok_or(format!(
            "`--set {}`: there are {count} data sets",
            path.join(".")
        ))?
        .insert(path[2].clone(), value);
        return Ok(());
    }
    let mut from = Value::Table(document);
    let mut into = table;
    let (last, tables) = path.split_last().expect("at least two parts");
    for part in tables {
        from = from
            .as_table_mut()
            .and_then(|t| t.remove(part))
            .ok_or("nothing to set")?;
        let entry = into
            .entry(part.clone())
            .or_insert_with(|| Value::Table(Table::new()));
        into = entry
            .as_table_mut()
            .ok_or_else(|| format!("`{part}` is no table"))?;
    }
    let value = from
        .as_table_mut()
        .and_then(|t| t.remove(last))
        .ok_or("nothing to set")?;
    into.insert(last.clone(), value);
    Ok(())
}

impl Checker<'_> {
    fn add(&mut self, message: String, hint: Option<String>, span: Range<usize>) {
        self.problems
            .push(Problem::at(message, hint, self.file, &self.lines, span));
    }

    fn table(
        &mut self,
        path: &str,
        table: &DeTable<'_>,
        keys: &'static [(&'static str, Kind)],
        span: Range<usize>,
    ) {
        for (key, value) in table.iter() {
            let name = compat::key(path, key.get_ref().as_ref());
            match keys.iter().find(|(k, _)| *k == name) {
                Some((_, kind)) => self.value(&join(path, name), value, *kind),
                None => {
                    let hint = hint(path, name, keys);
                    self.add(
                        format!("unknown key `{}`", join(path, name)),
                        hint,
                        key.span(),
                    );
                }
            }
        }
        if self.partial {
            return;
        }
        let has = |key: &str| table.iter().any(|(k, _)| k.get_ref().as_ref() == key);
        if path.is_empty() {
            for needed in ["model", "dataset", "output"] {
                if !has(needed) {
                    let shape = if needed == "dataset" {
                        "[[dataset]]"
                    } else {
                        needed
                    };
                    self.problems.push(Problem {
                        message: format!("{}: the table `{shape}` is missing", self.file),
                        hint: None,
                        place: None,
                    });
                }
            }
        }
        for (_, needed) in NEEDED.iter().filter(|(p, _)| *p == path) {
            for key in needed.iter().filter(|k| !has(k)) {
                self.add(
                    format!("`{}` is missing", join(path, key)),
                    None,
                    span.clone(),
                );
            }
        }
    }

    fn value(&mut self, path: &str, value: &Spanned<DeValue<'_>>, kind: Kind) {
        let (span, inner) = (value.span(), value.get_ref());
        match kind {
            Kind::Table(keys) => match inner.as_table() {
                Some(table) => self.table(path, table, keys, span),
                None => self.wrong(path, "a table", inner, span),
            },
            Kind::Tables(keys) => match inner.as_array() {
                Some(rows) => {
                    for row in rows {
                        self.value(path, row, Kind::Table(keys));
                    }
                }
                None => self.wrong(
                    path,
                    &format!("a list of tables: `[[{path}]]`"),
                    inner,
                    span,
                ),
            },
            Kind::Texts | Kind::Paths | Kind::Some(_) => match inner.as_array() {
                Some(rows) => {
                    let each = match kind {
                        Kind::Some(words) => OneOf(words),
                        Kind::Paths => Path,
                        _ => Text,
                    };
                    for row in rows {
                        self.value(path, row, each);
                    }
                }
                None => self.wrong(path, "a list of texts", inner, span),
            },
            Kind::Text | Kind::Path if inner.as_str().is_none() => {
                self.wrong(path, "a text", inner, span)
            }
            Kind::Path => {
                if let Some(reason) = inner.as_str().and_then(|name| no_path(path, name)) {
                    self.add(format!("`{path}` {reason}"), None, span);
                }
            }
            Kind::Flag if inner.as_bool().is_none() => {
                self.wrong(path, "true or false", inner, span)
            }
            Kind::Text | Kind::Flag => {}
            Kind::OneOf(words) => match inner.as_str() {
                Some(word) if words.contains(&word) => {}
                Some(word) => {
                    let list = words
                        .iter()
                        .map(|w| format!("`{w}`"))
                        .collect::<Vec<_>>()
                        .join(", ");
                    self.add(
                        format!("`{path}` is one of {list}, not `{word}`"),
                        closest(word, words),
                        span,
                    );
                }
                None => self.wrong(path, "a text", inner, span),
            },
            Kind::Whole(_)
            | Kind::Within(..)
            | Kind::Number(..)
            | Kind::AtLeast(_)
            | Kind::Positive
            | Kind::UpTo(_) => self.number(path, inner, kind, span),
        }
    }

    fn number(&mut self, path: &str, value: &DeValue<'_>, kind: Kind, span: Range<usize>) {
        let digits = |text: &str| text.replace('_', "");
        let whole = value
            .as_integer()
            .and_then(|i| i64::from_str_radix(&digits(i.as_str()), i.radix()).ok());
        let number = whole.map(|i| i as f64).or_else(|| {
            value
                .as_float()
                .and_then(|f| digits(f.as_str()).parse().ok())
        });
        match (kind, whole, number) {
            (Whole(least) | Within(least, _), Some(value), _) if value < least => {
                let hint = (path == "lora.rank").then(|| {
                    "drop the `[lora]` table to train the private layers as a whole".to_owned()
                });
                self.add(format!("`{path}` must be at least {least}"), hint, span);
            }
            (Within(_, most), Some(value), _) if value > most => {
                self.add(format!("`{path}` must be at most {most}"), None, span);
            }
            // Digits that no 64 bits hold.
            (Whole(_) | Within(..), None, _) if value.as_integer().is_some() => {
                self.add(
                    format!("`{path}` is too large or too small a number"),
                    None,
                    span,
                );
            }
            (Whole(_) | Within(..), None, _) => self.wrong(path, "a whole number", value, span),
            (AtLeast(least), _, Some(value)) if !(value >= least && value.is_finite()) => {
                self.add(format!("`{path}` must be at least {least:e}"), None, span);
            }
            (UpTo(most), _, Some(value)) if !(value > 0.0 && value <= most) => {
                self.add(
                    format!("`{path}` must be above 0, and at most {most}"),
                    None,
                    span,
                );
            }
            (Number(low, high), _, Some(value)) if !(low..=high).contains(&value) => {
                self.add(
                    format!("`{path}` must be between {low} and {high}"),
                    None,
                    span,
                );
            }
            (Positive, _, Some(value)) if !(value > 0.0 && value.is_finite()) => {
                self.add(format!("`{path}` must be above 0"), None, span);
            }
            (Number(..) | AtLeast(_) | Positive | UpTo(_), _, None) => {
                self.wrong(path, "a number", value, span)
            }
            _ => {}
        }
    }

    fn wrong(&mut self, path: &str, expected: &str, found: &DeValue<'_>, span: Range<usize>) {
        self.add(
            format!(
                "`{path}` takes {expected}, not {}",
                with_article(found.type_str())
            ),
            None,
            span,
        );
    }
}

/// What is wrong with the name of a file or folder.
fn no_path(key: &str, name: &str) -> Option<&'static str> {
    use std::path::Component;
    if name.trim().is_empty() {
        return Some("is empty");
    }
    if name.contains('\0') {
        return Some("has a NUL in it, which no file name can have");
    }
    // `/`, `//` and `/tmp/..` alike.
    let depth =
        std::path::Path::new(name)
            .components()
            .try_fold(0usize, |depth, part| match part {
                Component::RootDir | Component::Prefix(_) => Some(0),
                Component::CurDir => Some(depth),
                Component::ParentDir => Some(depth.saturating_sub(1)),
                Component::Normal(_) => Some(depth + 1),
            });
    let is_root = std::path::Path::new(name).has_root() && depth == Some(0);
    (key == "output.dir" && is_root).then_some("is the root folder; name a folder of its own")
}

fn with_article(kind: &str) -> String {
    format!(
        "{} {kind}",
        if kind.starts_with(['a', 'i']) {
            "an"
        } else {
            "a"
        }
    )
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn hint(path: &str, key: &str, keys: &'static [(&'static str, Kind)]) -> Option<String> {
    if let Some((_, ours)) = FOREIGN
        .iter()
        .find(|(k, ours)| *k == key && join(path, key) != *ours)
    {
        return Some(format!("here it is `{ours}`"));
    }
    if let Some((_, why)) = NOT_NEEDED.iter().find(|(k, _)| *k == key) {
        return Some(format!("not needed: {why}"));
    }
    let names: Vec<&str> = keys.iter().map(|(k, _)| *k).collect();
    closest(key, &names)
}

/// "did you mean", when one candidate is near enough.
fn closest(word: &str, candidates: &[&str]) -> Option<String> {
    let best = candidates.iter().map(|c| (distance(word, c), c)).min()?;
    (best.0 <= 1 + word.len() / 4).then(|| format!("did you mean `{}`?", best.1))
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (corner + usize::from(x != *y))
                .min(row[j] + 1)
                .min(row[j + 1] + 1);
            corner = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}
