import { flatten, listLimits, makeExample, nameType } from "./document.js";
import { colourJson, copyText, element } from "./element.js";
import { nameBearer, onSessionChange, readCredential } from "./session.js";

// The part of an operation in which it is tried: parameters, body, what is sent, and what comes back.

/** A form that calls `operation`; `logIn` opens the login. */
export function renderTry(document, operation, logIn) {
  const parameters = operation.parameters
    .filter(({ in: place }) => place !== "cookie")
    .map((parameter) => renderParameter(document, operation, parameter));
  const body = operation.body && renderBody(document, operation);
  const problem = element("p", { class: "problem", role: "alert" });
  const answer = element("div", { class: "answer", "aria-live": "polite" });
  const curl = element("div", { class: "curl" });
  const send = element("button", { class: "button button-main" }, "Send");
  let running;

  const build = () => buildRequest(operation, parameters, body);

  async function run(event) {
    event.preventDefault();
    if (running !== undefined) {
      running.abort();
      return;
    }
    problem.replaceChildren();
    const missing = parameters.find(({ parameter, input }) => parameter.required === true && input.value === "");
    if (missing !== undefined) {
      problem.replaceChildren(`${missing.parameter.name} is required`);
      missing.input.focus();
      return;
    }
    running = new AbortController();
    send.replaceChildren("Cancel");
    try {
      const { url, ...init } = build();
      const startedAt = performance.now();
      const response = await fetch(url, { ...init, signal: running.signal, cache: "no-store" });
      if (typeOf(response).startsWith("text/event-stream")) await showStream(response, answer);
      else {
        const text = await response.text();
        answer.replaceChildren(...renderAnswer({ response, text, ms: performance.now() - startedAt }));
      }
    } catch (error) {
      const text = error.name === "AbortError" ? "Cancelled." : `No answer: ${error.message}`;
      answer.replaceChildren(element("p", { class: "problem" }, text));
    } finally {
      running = undefined;
      send.replaceChildren("Send");
    }
  }

  async function copyCurl() {
    const command = toCurl(build());
    const isCopied = await copyText(command);
    curl.replaceChildren(
      element("p", { class: "note", role: "status" }, isCopied ? "Copied:" : "Copy this:"),
      element("pre", { class: "code", tabindex: "0" }, command),
    );
  }

  const form = element(
    "form",
    {
      class: "try",
      novalidate: true,
      "aria-label": `Try ${operation.method.toUpperCase()} ${operation.path}`,
      submit: (event) => void run(event),
      keydown: (event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
      },
    },
    element("h4", {}, "Try it"),
    renderAccess(operation, logIn),
    parameters.map(({ row }) => row),
    body?.row,
    problem,
    element(
      "div",
      { class: "actions" },
      send,
      element("button", { type: "button", class: "button", click: () => void copyCurl() }, "Copy as curl"),
    ),
    curl,
    answer,
  );
  return form;
}

/** Says whether the call will carry a credential, and offers the login where it should and does not. */
function renderAccess({ access }, logIn) {
  if (access.need === "none") return element("p", { class: "note" }, "Needs no token.");
  const line = element("p", { class: "note" });
  const update = () => {
    const bearer = nameBearer();
    const offer = element("button", { type: "button", class: "link", click: logIn }, "Log in");
    const need = access.need === "optional" ? "A token may be needed from here." : "Needs a token.";
    line.replaceChildren(...(bearer === undefined ? [`${need} `, offer] : [`Sent as ${bearer}.`]));
  };
  onSessionChange(update);
  update();
  return line;
}

function renderParameter(document, operation, parameter) {
  const schema = flatten(document, parameter.schema ?? {});
  const id = `${operation.id}-${parameter.in}-${parameter.name}`;
  const values = schema.enum ?? (schema.type === "boolean" ? [true, false] : undefined);
  const hint = [nameType(document, schema), ...listLimits(document, schema)].join(" · ");
  const example = parameter.example ?? schema.example ?? schema.default;
  const input =
    values === undefined
      ? element("input", {
          class: "input",
          id,
          name: parameter.name,
          autocomplete: "off",
          spellcheck: "false",
          inputmode: schema.type === "integer" ? "numeric" : undefined,
          placeholder: example === undefined ? undefined : String(example),
        })
      : element(
          "select",
          { class: "input", id, name: parameter.name },
          parameter.required === true ? [] : element("option", { value: "" }, "not given"),
          values.map((value) => element("option", { value: String(value) }, String(value))),
        );
  const row = element(
    "label",
    { class: "row", for: id },
    element(
      "span",
      {},
      element("code", {}, parameter.name),
      parameter.required === true && element("span", { class: "field-required" }, "required"),
      element("span", { class: "hint" }, hint),
    ),
    input,
  );
  return { parameter, schema, input, row };
}

function renderBody(document, operation) {
  const { schema = {}, example, type, required } = operation.body;
  // What need not be sent is better added than taken out; where nothing must be, everything is shown.
  const smallest = makeExample(document, schema, { requiredOnly: true });
  const isEmpty = typeof smallest === "object" && smallest !== null && Object.keys(smallest).length === 0;
  const shown = example ?? (isEmpty ? makeExample(document, schema) : smallest);
  const text = JSON.stringify(shown, undefined, 2);
  const input = element("textarea", {
    class: "input code-input",
    id: `${operation.id}-body`,
    name: "body",
    rows: Math.min(16, Math.max(3, text.split("\n").length)),
    spellcheck: "false",
    autocapitalize: "off",
  });
  input.value = text;
  const row = element(
    "label",
    { class: "row", for: input.id },
    element(
      "span",
      {},
      "Body",
      required && element("span", { class: "field-required" }, "required"),
      element("span", { class: "hint" }, type),
    ),
    input,
  );
  return { input, row, type };
}

function buildRequest(operation, parameters, body) {
  const { access, method } = operation;
  const headers = {};
  const query = new URLSearchParams();
  let { path } = operation;
  for (const { parameter, schema, input } of parameters) {
    const { name, in: place } = parameter;
    const { value } = input;
    if (place === "path") path = path.replaceAll(`{${name}}`, encodeURIComponent(value) || `{${name}}`);
    else if (value === "") continue;
    else if (place === "header") headers[name] = value;
    else for (const one of schema.type === "array" ? value.split(",") : [value]) query.append(name, one.trim());
  }
  const credential = readCredential();
  if (credential !== undefined && access.need !== "none") {
    if (access.header === undefined) headers["Authorization"] = `Bearer ${credential}`;
    else headers[access.header] = credential;
  }
  const text = body?.input.value ?? "";
  if (text !== "") headers["Content-Type"] = body.type;
  const search = query.size === 0 ? "" : `?${query.toString()}`;
  return {
    url: `${location.origin}${path}${search}`,
    method: method.toUpperCase(),
    headers,
    body: text === "" ? undefined : text,
  };
}

const typeOf = (response) => response.headers.get("Content-Type") ?? "";

/** What a stream may leave on the page: its end, since it has none of its own. */
const maxStreamed = 50_000;

/** Shows events as they come, until they are cancelled or the gateway ends them. */
async function showStream(response, answer) {
  const events = element("pre", { class: "code answer-body", tabindex: "0" });
  const state = element("span", { class: "note" }, "listening");
  answer.replaceChildren(renderAnswerHead(response, state), events);
  try {
    for await (const chunk of response.body.pipeThrough(new TextDecoderStream()))
      events.textContent = (events.textContent + chunk).slice(-maxStreamed);
    state.replaceChildren("ended by the gateway");
  } catch (error) {
    state.replaceChildren(error.name === "AbortError" ? "cancelled" : `ended: ${error.message}`);
  }
}

const renderAnswerHead = ({ status, statusText }, note) =>
  element(
    "div",
    { class: "answer-head" },
    element("span", { class: `status status-${String(status)[0]}` }, `${status} ${statusText}`.trim()),
    note,
  );

function renderAnswer({ response, text, ms }) {
  const { status, headers } = response;
  const bytes = new TextEncoder().encode(text).length;
  const isJson = /[/+]json\b/.test(typeOf(response));
  const time = `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  return [
    renderAnswerHead(response, element("span", { class: "note" }, `${time} · ${formatBytes(bytes)}`)),
    status === 401 && element("p", { class: "problem" }, "The credential is missing or not valid: log in again."),
    text === ""
      ? element("p", { class: "note" }, "No body.")
      : element("pre", { class: "code answer-body", tabindex: "0" }, isJson ? colourJson(indent(text)) : text),
    element(
      "details",
      { class: "headers" },
      element("summary", {}, "Headers"),
      element(
        "pre",
        { class: "code", tabindex: "0" },
        [...headers].map(([key, value]) => `${key}: ${value}`).join("\n"),
      ),
    ),
  ].filter((part) => part !== false);
}

const formatBytes = (bytes) => (bytes < 10_000 ? `${bytes} bytes` : `${(bytes / 1000).toFixed(1)} kB`);

function indent(text) {
  try {
    return JSON.stringify(JSON.parse(text), undefined, 2);
  } catch {
    return text; // said to be JSON and is not: shown as it came
  }
}

const quote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** The same call for a shell. */
export function toCurl({ url, method, headers, body }) {
  return [
    method === "GET" ? "curl" : `curl -X ${method}`,
    quote(url),
    ...Object.entries(headers).map(([key, value]) => `-H ${quote(`${key}: ${value}`)}`),
    ...(body === undefined ? [] : [`--data-raw ${quote(body)}`]),
  ].join(" \\\n  ");
}
