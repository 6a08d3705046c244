"""Uses a gateway with the official client as its documentation shows. Argument: the base URL."""

import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="unused", max_retries=0)
model = client.models.list().data[0].id
assert client.models.retrieve(model).id == model
messages = [{"role": "user", "content": "hello"}]

whole = client.chat.completions.create(model=model, messages=messages, max_tokens=6)
text = whole.choices[0].message.content
assert whole.choices[0].finish_reason in ("stop", "length")
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens

pieces, usage, finish = [], None, None
stream = client.chat.completions.create(
    model=model, messages=messages, max_tokens=6, stream=True, stream_options={"include_usage": True}
)
for chunk in stream:
    for choice in chunk.choices:
        pieces.append(choice.delta.content or "")
        finish = choice.finish_reason or finish
    usage = chunk.usage or usage
assert "".join(pieces) == text, (pieces, text)
assert usage == whole.usage and finish == whole.choices[0].finish_reason

plain = client.completions.create(model=model, prompt="hello", max_tokens=4)
streamed = client.completions.create(model=model, prompt="hello", max_tokens=4, stream=True)
assert "".join(chunk.choices[0].text for chunk in streamed) == plain.choices[0].text

warm = client.chat.completions.create(
    model=model, messages=messages, max_tokens=3, temperature=0.7, extra_body={"top_k": 20}
)
assert warm.usage.completion_tokens >= 1

for extra, param in [({"n": 2}, "n"), ({"logprobs": True}, "logprobs"), ({"temperature": 1, "top_p": 0.5}, "top_p")]:
    try:
        client.chat.completions.create(model=model, messages=messages, **extra)
        raise SystemExit(f"{param} was not refused")
    except openai.BadRequestError as error:
        assert error.param == param, error
try:
    client.chat.completions.create(model="another", messages=messages)
    raise SystemExit("an unknown model was not refused")
except openai.NotFoundError as error:
    assert error.code == "model_not_found", error
print("all passed")
