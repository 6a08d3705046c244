//! The rows of the page: what each key means.

/// A row for each key: path, default, meaning. Defaults in backquotes are TOML, and a test reads
/// each back as the same recipe.
pub(super) const ABOUT: &[(&str, &str, &str)] = &[
    ("model", "", "The base weights."),
    (
        "model.base_model",
        "",
        "A checkpoint folder, a GGUF file, or a name on the hub: `org/name`, `org/name/file.gguf`. \
         Needed by `init = \"pretrained\"`.",
    ),
    (
        "model.revision",
        "the branch `main`",
        "Commit, branch or tag on the hub.",
    ),
    (
        "model.ignore",
        "`[]`",
        "Keys of the checkpoint's files, names of tensors and tokens that may be left out though \
         they are not used.",
    ),
    (
        "model.init",
        "`\"pretrained\"`",
        "Where the weights come from: a checkpoint, or a new model with random weights.",
    ),
    (
        "model.architecture",
        "",
        "The shape of a new model; needed by `init = \"random\"`. Names are those of \
         transformers' `LlamaConfig`.",
    ),
    (
        "model.architecture.hidden_size",
        "",
        "Width of the residual stream.",
    ),
    (
        "model.architecture.intermediate_size",
        "",
        "Width of the MLP.",
    ),
    ("model.architecture.num_hidden_layers", "", "Layers."),
    (
        "model.architecture.num_attention_heads",
        "",
        "Heads of queries.",
    ),
    (
        "model.architecture.num_key_value_heads",
        "",
        "Heads of keys and values.",
    ),
    ("model.architecture.head_dim", "", "Numbers in a head."),
    (
        "model.architecture.max_position_embeddings",
        "",
        "Positions of a text.",
    ),
    (
        "model.architecture.rope_theta",
        "`10000.0`",
        "Base of the rotation's angles.",
    ),
    (
        "tokenizer",
        "",
        "A byte-level BPE that is learned from the data sets; needed by `init = \"random\"`.",
    ),
    ("tokenizer.vocab_size", "", "Tokens that it has."),
    ("dataset", "", "Rows to learn from."),
    (
        "dataset.path",
        "",
        "A file: `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv` or `.txt`, also with `.gz` or \
         `.zst`; a folder of such files, or a pattern (`data/*.jsonl`). Looked for here, beside \
         the recipe, under `$MARILL_SHARED` and under `../shared`.",
    ),
    (
        "dataset.target_path",
        "",
        "The other side of a translation: line n belongs to line n.",
    ),
    (
        "dataset.format",
        "",
        "What a row is: a text and its label; instruction, input and output (also `alpaca`); \
         messages (also `sharegpt`); source and target; running text.",
    ),
    (
        "dataset.style",
        "`\"chat\"`",
        "A prompt through the checkpoint's chat template, or as it stands.",
    ),
    ("dataset.system", "", "Instructions in front of every row."),
    (
        "dataset.template",
        "",
        "The prompt, with `{column}` for values of the row; columns of a file without header are \
         `{0}`, `{1}`.",
    ),
    ("dataset.completion", "", "The answer, likewise."),
    (
        "dataset.label",
        "",
        "The column with the label (`classify`).",
    ),
    (
        "dataset.labels",
        "`[]`",
        "Names of the labels, in the order of their numbers; a file may hold either.",
    ),
    (
        "dataset.label_codes",
        "`[]`",
        "How the file writes the labels, in the same order, where it is neither name nor number.",
    ),
    (
        "dataset.exclude",
        "`[]`",
        "Files of the same format: rows whose prompt also stands in one of them are left out.",
    ),
    (
        "dataset.val_path",
        "",
        "Rows of the same format that measure the loss and are never learned, in place of \
         `data.val_fraction`.",
    ),
    (
        "dataset.val_target_path",
        "",
        "The other side of `val_path`, of a translation in two files.",
    ),
    (
        "dataset.limit",
        "all rows",
        "Takes so many rows, drawn with the training seed.",
    ),
    (
        "dataset.weight",
        "`1.0`",
        "Times that the rows occur in an epoch; a fraction draws a part.",
    ),
    ("data", "", "How rows become training sequences."),
    (
        "data.max_seq_len",
        "`256`",
        "Tokens of a sequence; a longer row loses the front of its prompt.",
    ),
    (
        "data.val_fraction",
        "`0.0`",
        "Rows held out to measure the loss.",
    ),
    (
        "data.train_on_input",
        "`false`",
        "Also learn to write the prompt.",
    ),
    (
        "data.train_on",
        "`\"all\"`",
        "Which turns of the assistant are learned in a conversation.",
    ),
    ("freeze", "", "What stays public."),
    (
        "freeze.layers",
        "`0`",
        "The embedding and so many first layers stay public and run on the client.",
    ),
    (
        "freeze.embedding",
        "`false`",
        "Without `[lora]` and frozen layers: embedding, final norm and head stay as they are all \
         the same, so that the run can be exported.",
    ),
    (
        "lora",
        "all private weights are trained",
        "Private low-rank updates on public weights.",
    ),
    ("lora.rank", "", "Rank of an update."),
    (
        "lora.alpha",
        "`16.0`",
        "An update is scaled by `alpha / rank`.",
    ),
    (
        "lora.rslora",
        "`false`",
        "Scale by `alpha / sqrt(rank)` instead.",
    ),
    (
        "lora.init",
        "`\"random\"`",
        "What `A` begins with: random numbers, or leading directions of the layer's inputs.",
    ),
    (
        "lora.init_rows",
        "`64`",
        "Training rows whose inputs decide the factors (`init = \"data\"`).",
    ),
    (
        "lora.init_from",
        "",
        "Begin with the factors of another run's folder, or of an adapter of PEFT.",
    ),
    (
        "lora.dropout",
        "`0.0`",
        "Share of a factor's inputs that training leaves out.",
    ),
    (
        "lora.target_modules",
        "all seven",
        "Maps that get an update.",
    ),
    (
        "lora.ranks",
        "",
        "Ranks of single modules in place of `rank`: `{ q_proj = 4, down_proj = 32 }`.",
    ),
    (
        "heads",
        "a softmax for every head",
        "Fewer softmaxes in the private layers.",
    ),
    (
        "heads.merge",
        "",
        "So many heads share one, or are pruned to one.",
    ),
    (
        "heads.method",
        "`\"merge\"`",
        "Share it, or keep one head of each group.",
    ),
    (
        "heads.grouping",
        "`\"strided\"`",
        "Heads of different key-value heads, neighbors, or in each layer what changes its output \
         least.",
    ),
    (
        "heads.scale",
        "`1 / sqrt(merge * head_dim)`",
        "Factor of the summed scores.",
    ),
    (
        "heads.allow_kv_collapse",
        "`false`",
        "Allow groups within one key-value head, whose values are then averaged.",
    ),
    (
        "heads.fit_scales",
        "`false`",
        "A factor for each head's scores, measured on training rows.",
    ),
    (
        "heads.keep",
        "`0`",
        "So many private layers stay whole: those that would change most.",
    ),
    (
        "heads.keep_layers",
        "`[]`",
        "Layers that stay whole, counted over the whole model.",
    ),
    (
        "heads.progressive",
        "`0.0`",
        "In this first share of the steps each head's scores move from its own to its group's.",
    ),
    (
        "heads.calibration_rows",
        "`64`",
        "Training rows on which groups, scales and layers are measured, at most.",
    ),
    (
        "approx",
        "exact functions",
        "Cheaper functions in the private layers, trained and served alike.",
    ),
    ("approx.activation", "SiLU", "`x²/8 + x/2 + 1/16`."),
    (
        "approx.softmax",
        "exp of the distance to the maximum",
        "Weights that need no maximum.",
    ),
    (
        "approx.bound",
        "6, with `clipped`",
        "Scores above it weigh the same (`clipped`).",
    ),
    (
        "distill",
        "no teacher",
        "Learn from a teacher's logits too.",
    ),
    (
        "distill.teacher",
        "",
        "`base`, `fine-tune` (the base, all of it trained on the same rows first), or a checkpoint \
         with the same tokenizer.",
    ),
    (
        "distill.revision",
        "the branch `main`",
        "Commit, branch or tag of a teacher on the hub.",
    ),
    (
        "distill.fine_tune",
        "",
        "How a teacher `fine-tune` is trained.",
    ),
    (
        "distill.fine_tune.learning_rate",
        "3e-4",
        "Its learning rate.",
    ),
    (
        "distill.fine_tune.max_tokens",
        "as many as the run itself",
        "Tokens that it is trained on.",
    ),
    (
        "distill.temperature",
        "`1.0`",
        "Divides the logits of both.",
    ),
    (
        "distill.weight",
        "0.5, where there are no stages",
        "Part of the loss that follows the teacher's logits; the rest follows the labels.",
    ),
    (
        "distill.keep_logits",
        "`\"all\"`",
        "What of a teacher's answer is kept: everything, the likeliest tokens, or tokens drawn \
         from it.",
    ),
    (
        "distill.kept_tokens",
        "64, unless all are kept",
        "Tokens kept of each answer, or drawn.",
    ),
    (
        "distill.relation_heads",
        "as many as the base has heads of keys",
        "Parts that queries, keys and values are cut into for `relations`.",
    ),
    (
        "distill.stages",
        "one, of `weight`",
        "Parts of the run with losses of their own, one after another. The loss is the sum of the \
         parts below with these weights.",
    ),
    (
        "distill.stages.share",
        "",
        "Part of the run's steps; together the shares are 1.",
    ),
    (
        "distill.stages.hidden",
        "`0.0`",
        "Distance of the private layers' outputs from the teacher's, relative to their size.",
    ),
    (
        "distill.stages.outputs",
        "`0.0`",
        "The same with every layer alone, on the teacher's own input of it.",
    ),
    (
        "distill.stages.relations",
        "`0.0`",
        "How the last layer's queries, keys and values relate among themselves (MiniLMv2).",
    ),
    (
        "distill.stages.logits",
        "`0.0`",
        "`temperature² KL(teacher || student)` at the labels.",
    ),
    (
        "distill.stages.labels",
        "`0.0`",
        "Cross-entropy with the labels.",
    ),
    ("train", "", "The run."),
    (
        "train.epochs",
        "`1.0`",
        "Times that it goes through the rows.",
    ),
    (
        "train.max_steps",
        "as the epochs say",
        "Stop after so many steps.",
    ),
    (
        "train.max_tokens",
        "as the epochs say",
        "Stop after so many tokens, prompts included.",
    ),
    (
        "train.micro_batch_size",
        "`8`",
        "Sequences that are computed at once.",
    ),
    (
        "train.gradient_accumulation_steps",
        "`1`",
        "Micro-batches of a step.",
    ),
    (
        "train.max_grad_norm",
        "`1.0`",
        "Longer gradients are scaled down to it.",
    ),
    ("train.seed", "`0`", "Decides order, factors and dropout."),
    (
        "train.checkpoint_steps",
        "`100`",
        "Steps from checkpoint to checkpoint.",
    ),
    (
        "train.gradient_checkpointing",
        "`\"auto\"`",
        "Keep one layer's graph at a time and compute its inside twice: the same result in less \
         memory.",
    ),
    (
        "train.quantize_last_steps",
        "`0`",
        "In so many steps at the end the private layers compute with the secure program's \
         roundings.",
    ),
    (
        "train.early_stopping_patience",
        "no early end",
        "End the run behind so many measurements of the validation loss in a row without a new \
         least one.",
    ),
    (
        "train.early_stopping_threshold",
        "0",
        "By how many nats a validation loss must be less than the least one to be a new one.",
    ),
    (
        "train.keep_best",
        "`false`",
        "Leave the parameters of the least validation loss, not the last ones.",
    ),
    ("optimizer", "", "AdamW and its schedule."),
    ("optimizer.kind", "`\"adamw\"`", "The optimizer."),
    (
        "optimizer.learning_rate",
        "`2e-4`",
        "The highest rate of the schedule.",
    ),
    ("optimizer.weight_decay", "`0.0`", "Decoupled weight decay."),
    ("optimizer.beta1", "`0.9`", "Decay of the first moment."),
    ("optimizer.beta2", "`0.999`", "Decay of the second moment."),
    (
        "optimizer.lr_scheduler",
        "`\"cosine\"`",
        "How the rate comes down after the warm-up.",
    ),
    (
        "optimizer.warmup_ratio",
        "`0.03`",
        "Share of the steps in which the rate rises.",
    ),
    (
        "optimizer.warmup_steps",
        "as `optimizer.warmup_ratio` says",
        "Steps in which the rate rises, in place of a share.",
    ),
    (
        "optimizer.min_lr_ratio",
        "`0.0`",
        "What the rate comes down to behind the last step, as a share of the highest.",
    ),
    (
        "export",
        "the numeric format's defaults",
        "The numbers of the secure program.",
    ),
    (
        "export.frac_bits",
        "14",
        "Fractional bits of activations; no other number is offered.",
    ),
    (
        "export.wire_bits",
        "one for each wire",
        "Refused: the numeric format fixes the widths.",
    ),
    (
        "export.rounding",
        "`exact`",
        "How truncations round: half up, or up with a probability equal to the fraction dropped.",
    ),
    (
        "export.reveal",
        "`token`",
        "What a session reveals; no other is offered.",
    ),
    (
        "eval",
        "",
        "What `marill eval` runs on the export when no task is named.",
    ),
    (
        "eval.tasks",
        "`[]`",
        "Tasks by name, or files of one's own: `mine.toml`.",
    ),
    (
        "eval.path",
        "",
        "Test rows in the format of the first data set.",
    ),
    (
        "eval.target_path",
        "",
        "The other side of a translation's test rows.",
    ),
    (
        "eval.every_steps",
        "at the end only",
        "Steps from one measurement of the validation loss to the next.",
    ),
    ("eval.min", "", "A score below it is a failure."),
    ("output", "", "Where the run goes."),
    ("output.dir", "", "A folder of its own."),
    (
        "output.tensorboard",
        "`true`",
        "Write the metrics as event files of TensorBoard too, in `tensorboard/`.",
    ),
];
