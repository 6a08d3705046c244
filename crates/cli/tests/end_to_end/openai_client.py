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

# Responses: the same answer, whole, in events, and through the client's own helper.
told = client.responses.create(model=model, input="hello", max_output_tokens=6)
assert told.output_text == text, (told.output_text, text)
assert told.usage.input_tokens == whole.usage.prompt_tokens and told.usage.total_tokens == whole.usage.total_tokens
assert told.status == {"stop": "completed", "length": "incomplete"}[whole.choices[0].finish_reason]
events = list(client.responses.create(model=model, input="hello", max_output_tokens=6, stream=True))
assert [event.sequence_number for event in events] == list(range(len(events)))
assert events[0].type == "response.created" and events[-1].type == f"response.{told.status}", events[-1]
assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == text
assert events[-1].response.output_text == text and events[-1].response.usage == told.usage
with client.responses.stream(model=model, input="hello", max_output_tokens=6) as stream:
    for event in stream:
        pass
    assert event.response.output_text == text
turns = [{"role": "user", "content": "hello"}, *told.output, {"role": "user", "content": "and"}]
second = client.responses.create(model=model, instructions="be brief", input=turns, max_output_tokens=3, temperature=0.7)
assert second.usage.output_tokens >= 1 and second.instructions == "be brief"
for extra, param in [
    ({"previous_response_id": told.id}, "previous_response_id"),
    ({"tools": [{"type": "web_search"}]}, "tools"),
    ({"text": {"format": {"type": "json_object"}}}, "text"),
    ({"store": True}, "store"),
]:
    try:
        client.responses.create(model=model, input="hello", **extra)
        raise SystemExit(f"{param} was not refused")
    except openai.BadRequestError as error:
        assert error.param == param, error
        assert error.request_id == error.body["request_id"], error
print("all passed")
