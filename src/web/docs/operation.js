import { makeExample, nameType, resolve } from "./document.js";
import { colourJson, element, prose } from "./element.js";
import { renderField, renderFields } from "./fields.js";
import { renderTry } from "./try.js";

// One operation: its line in the page, and behind it all that the document says of it.

export function renderBadge(method) {
  return element("span", { class: `method method-${method}` }, method.toUpperCase());
}

const accessLabels = { token: "token", optional: "token optional", none: "public" };
const accessTitles = {
  token: "Needs a token",
  optional: "Needs a token unless the caller's network is allowed without",
  none: "Needs no token",
};

/** A path that may break after each slash. */
export const renderPath = (path) =>
  path.split("/").flatMap((part, i) => (i === 0 ? [part] : ["/", element("wbr"), part]));

/** A card that is closed at first. `onToggle` hears what a person does to it, not what `toggle` is told. */
export function renderOperation(openapi, operation, { logIn, onToggle }) {
  const panel = element("div", { class: "panel", id: `${operation.id}-panel`, hidden: true });
  const button = element(
    "button",
    {
      type: "button",
      class: "operation-head",
      "aria-expanded": "false",
      "aria-controls": panel.id,
      click: () => onToggle(toggle(panel.hidden)),
    },
    renderBadge(operation.method),
    element("code", { class: "path" }, renderPath(operation.path)),
    element("span", { class: "summary" }, operation.summary),
    element(
      "span",
      { class: "access", title: accessTitles[operation.access.need] },
      operation.isDeprecated ? "deprecated · " : "",
      accessLabels[operation.access.need],
    ),
  );
  const card = element("article", { class: "operation", id: operation.id }, element("h3", {}, button), panel);

  /** What is behind an operation is made when it is opened for the first time. */
  function toggle(isOpen) {
    if (isOpen && panel.childElementCount === 0) panel.append(...renderPanel(openapi, operation, logIn));
    panel.hidden = !isOpen;
    button.setAttribute("aria-expanded", String(isOpen));
    card.classList.toggle("is-open", isOpen);
    return isOpen;
  }

  return { operation, card, toggle };
}

function renderPanel(openapi, operation, logIn) {
  return [
    element(
      "div",
      { class: "about" },
      operation.description !== "" && element("p", { class: "lead" }, prose(operation.description)),
      operation.parameters.length > 0 && renderParameters(openapi, operation.parameters),
      operation.body && renderBody(openapi, operation.body),
      renderResponses(openapi, operation.responses),
    ),
    renderTry(openapi, operation, logIn),
  ];
}

function renderParameters(openapi, parameters) {
  return element(
    "section",
    {},
    element("h4", {}, "Parameters"),
    element(
      "ul",
      { class: "fields" },
      parameters.map((parameter) =>
        renderField(openapi, {
          name: parameter.name,
          schema: parameter.schema ?? {},
          mark: parameter.required === true ? "required" : undefined,
          description: parameter.description,
          place: `in ${parameter.in}`,
        }),
      ),
    ),
  );
}

/** Fields, and what they may look like. `isAnswer`: it is read, not written. */
function renderSchema(openapi, { schema = {}, example, type }, { isAnswer }) {
  const isJson = /[/+]json\b/.test(type);
  const sample = example ?? makeExample(openapi, schema);
  const fields = renderFields(openapi, schema, { isAnswer });
  const kind = nameType(openapi, schema);
  const { description } = resolve(openapi, schema);
  return [
    // What has no name and no more to tell than its fields is just an object.
    kind !== "object" && element("p", { class: "note kind" }, kind),
    description !== undefined && element("p", { class: "note" }, prose(description)),
    fields ?? false,
    element(
      "details",
      { class: "example", open: true },
      element("summary", {}, "Example"),
      element(
        "pre",
        { class: "code", tabindex: "0" },
        isJson ? colourJson(JSON.stringify(sample, undefined, 2)) : String(sample),
      ),
    ),
  ].filter((part) => part !== false);
}

function renderBody(openapi, body) {
  return element(
    "section",
    {},
    element(
      "h4",
      {},
      "Request body",
      element("span", { class: body.required ? "field-required" : "hint" }, body.required ? "required" : "optional"),
      element("span", { class: "hint" }, body.type ?? ""),
    ),
    body.description !== "" && element("p", {}, prose(body.description)),
    renderSchema(openapi, body, { isAnswer: false }),
  );
}

function renderResponses(openapi, responses) {
  return element(
    "section",
    {},
    element("h4", {}, "Responses"),
    responses.map((response) => {
      const { status, description, type } = response;
      const isSuccess = status.startsWith("2");
      const head = [
        element("span", { class: `status status-${status[0]}` }, status === "default" ? "other" : status),
        element("span", { class: "response-text" }, prose(description)),
      ];
      if (type === undefined) return element("div", { class: "response response-bare" }, head);
      return element(
        "details",
        { class: "response", open: isSuccess },
        element("summary", {}, head),
        element("div", { class: "response-body" }, renderSchema(openapi, response, { isAnswer: true })),
      );
    }),
  );
}
