#!/usr/bin/env python3
"""Writes templates.json: what transformers makes of chats and plain texts, for the templates of six model families.

usage: make.py          (needs transformers and jinja2; no network, no weights)
"""
import json
import os
import tempfile

from transformers import PreTrainedTokenizerFast, __version__

HERE = os.path.dirname(os.path.abspath(__file__))
ALTERNATE = "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
TEMPLATES = {
    "llama-2": (
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = "
        "messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
        "{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}" + ALTERNATE +
        "{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + "
        "'\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}"
        "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "llama-3": (
        "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
        "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
        "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "llama-3.1": (
        '{{- bos_token }}\n{%- if custom_tools is defined %}\n    {%- set tools = custom_tools %}\n{%- endif %}\n'
        '{%- if not date_string is defined %}\n    {%- set date_string = "26 Jul 2024" %}\n{%- endif %}\n'
        '{%- if not tools is defined %}\n    {%- set tools = none %}\n{%- endif %}\n\n'
        "{#- This block extracts the system message, so we can slot it into the right place. #}\n"
        "{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content']|trim %}\n"
        "    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system_message = \"\" %}\n{%- endif %}\n\n"
        '{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}\n{%- if tools is not none %}\n'
        '    {{- "Environment: ipython\\n" }}\n{%- endif %}\n'
        '{{- "Cutting Knowledge Date: December 2023\\n" }}\n{{- "Today Date: " + date_string + "\\n\\n" }}\n'
        '{{- system_message }}\n{{- "<|eot_id|>" }}\n\n{%- for message in messages %}\n'
        "    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}\n"
        "        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + "
        "'<|eot_id|>' }}\n    {%- elif 'tool_calls' in message %}\n        {{- raise_exception(\"no tools\") }}\n"
        '    {%- elif message.role == "tool" or message.role == "ipython" %}\n        {{- message.content | tojson }}\n'
        "    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n"
        "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n"
    ),
    "mistral": (
        "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}" +
        ALTERNATE + "{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token + ' ' }}{% else %}"
        "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
    ),
    "zephyr": (
        "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + "
        "eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
        "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n"
        "{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
    ),
    "smollm2": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "chatml-generation": (
        "{%- for message in messages %}\n    {%- if message.role == 'assistant' %}\n"
        "        {{- '<|im_start|>assistant\\n' }}\n        {%- generation %}\n        {{- message.content + eos_token }}\n"
        "        {%- endgeneration %}\n        {{- '\\n' }}\n    {%- else %}\n"
        "        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}\n    {%- endif %}\n"
        "{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}" +
        ALTERNATE + "{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
        "{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + "
        "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
    ),
}
SPECIAL = [
    "<unk>", "<s>", "</s>", "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<start_of_turn>", "<end_of_turn>",
]
AS_OBJECT = {"__type": "AddedToken", "content": "</s>", "lstrip": False, "normalized": False, "rstrip": False,
             "single_word": False, "special": True}
LLAMA2 = {"bos_token": "<s>", "eos_token": AS_OBJECT, "unk_token": "<unk>"}
CASES = {
    "llama-2": ("pieces", LLAMA2),
    "llama-3": ("bytes", {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}),
    "llama-3.1": ("bytes", {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}),
    "mistral": ("metaspace", LLAMA2),
    "zephyr": ("pieces", LLAMA2),
    "smollm2": ("bytes", {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}),
    "chatml-generation": ("bytes", {"bos_token": None, "eos_token": "<|im_end|>"}),
    "gemma": ("metaspace", {"bos_token": "<s>", "eos_token": "</s>"}),
}
turn = lambda role, content: {"role": role, "content": content}
CHATS = [
    [turn("user", "Where is the ferry?")],
    [turn("system", "Be brief."), turn("user", " Two  words: yes or <no> & 'why'?\n")],
    [turn("user", "héllo 你好"), turn("assistant", " At the quay.\n\nIt waits. "), turn("user", "Thanks!\n")],
    [turn("user", "A"), turn("assistant", "B")],
    [turn("user", "A"), turn("user", "B")],
]
PLAIN = ["The ferry lay at the quay", " two  spaces", "", "<s>already there", "line\nline"]


def byte_letters():
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, extra = {b: chr(b) for b in keep}, 0
    for b in range(256):
        if b not in letters:
            letters[b] = chr(256 + extra)
            extra += 1
    return [letters[b] for b in range(256)]


def tokenizer(kind):
    added = [
        {"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for i, t in enumerate(SPECIAL)
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    letters = byte_letters()
    out = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
           "pre_tokenizer": level, "post_processor": None, "decoder": level, "model": model}
    if kind == "bytes":
        merges = ["t h", "th e", "Ġ the", "u s", "us e", "use r"]
        words = letters
    else:
        merges = ["▁ t", "▁t h", "▁th e", "▁ A", "I N", "IN S", "INS T"]
        words = [f"<0x{b:02X}>" for b in range(256)] + ["▁", *(chr(c) for c in range(33, 127))]
        first = {"id": "<s>", "ids": [SPECIAL.index("<s>")], "tokens": ["<s>"]}
        begins = {"SpecialToken": {"id": "<s>", "type_id": 0}}
        text = lambda name, kind: {"Sequence": {"id": name, "type_id": kind}}
        out["post_processor"] = {"type": "TemplateProcessing", "single": [begins, text("A", 0)],
                                 "pair": [begins, text("A", 0), text("B", 1)], "special_tokens": {"<s>": first}}
        model.update(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
        back = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]
        out["decoder"] = {"type": "Sequence", "decoders": back}
        if kind == "pieces":
            out["pre_tokenizer"] = None
            out["normalizer"] = {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
        else:
            out["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    joined = ["".join(m.split(" ")) for m in merges]
    vocab = {t: i for i, t in enumerate(SPECIAL + words)}
    for token in joined:
        vocab.setdefault(token, len(vocab))
    model.update(vocab=vocab, merges=merges)
    return out


def main():
    kinds = {kind: tokenizer(kind) for kind in ("bytes", "pieces", "metaspace")}
    cases = []
    for name, (kind, tokens) in CASES.items():
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATES[name], **tokens}
        with tempfile.TemporaryDirectory() as folder:
            for file, value in [("tokenizer.json", kinds[kind]), ("tokenizer_config.json", config)]:
                with open(os.path.join(folder, file), "w", encoding="utf-8") as f:
                    json.dump(value, f)
            model = PreTrainedTokenizerFast.from_pretrained(folder)
        chats = []
        for messages in CHATS:
            for asked in (True, False):
                said = {"messages": messages, "add_generation_prompt": asked}
                try:
                    said["text"] = model.apply_chat_template(messages, tokenize=False, add_generation_prompt=asked)
                    said["ids"] = model(said["text"], add_special_tokens=False).input_ids
                except Exception as error:
                    said["error"] = str(error)
                chats.append(said)
        plain = [{"text": text, "ids": model(text).input_ids} for text in PLAIN]
        cases.append({"name": name, "tokenizer": kind, "tokenizer_config": config, "chats": chats, "plain": plain})
    with open(os.path.join(HERE, "templates.json"), "w", encoding="utf-8") as f:
        json.dump({"transformers": __version__, "tokenizers": kinds, "cases": cases}, f, ensure_ascii=False)
        f.write("\n")


if __name__ == "__main__":
    main()
