import { alternativesOf, flatten, listLimits, nameType, refName } from "./document.js";
import { element, prose } from "./element.js";

// A schema as a list that a person reads: each field with its type, whether it must be there, its limits and meaning.

/** One field's line, also used for parameters. `mark`: "required", "optional", or nothing to say of that. */
export function renderField(document, { name, schema, mark, description, place, nested }) {
  const limits = listLimits(document, schema);
  return element(
    "li",
    { class: "field" },
    element(
      "div",
      { class: "field-head" },
      element("code", { class: "field-name" }, name),
      element("span", { class: "field-type" }, nameType(document, schema)),
      place !== undefined && element("span", { class: "field-place" }, place),
      mark !== undefined && element("span", { class: `field-${mark}` }, mark),
    ),
    limits.length > 0 && element("div", { class: "field-limits" }, limits.join(" · ")),
    description !== undefined && description !== "" && element("div", { class: "field-text" }, prose(description)),
    nested,
  );
}

/** Deeper than that nobody reads, and a schema that contains itself has no end. */
const maxDepth = 8;

const hasFields = (document, schema, depth = 0) => {
  const flat = flatten(document, schema);
  if (flat.properties !== undefined) return true;
  if (depth === maxDepth) return false;
  const parts = [flat.items, flat.additionalProperties, ...(alternativesOf(flat) ?? [])];
  return parts.some((part) => typeof part === "object" && hasFields(document, part, depth + 1));
};

/**
 * The fields of a schema and of all that is in it; `undefined` where it has none, a plain string for instance.
 * `isAnswer`: who reads wants to know what may be absent; who writes, what must be there.
 */
export function renderFields(document, schema, { isAnswer = false } = {}, seen = []) {
  const name = refName(schema);
  if (name !== undefined && seen.includes(name)) return element("p", { class: "note" }, `${name} again, as above`);
  const within = name === undefined ? seen : [...seen, name];
  const flat = flatten(document, schema);
  const alternatives = alternativesOf(flat);
  if (alternatives !== undefined) {
    if (!alternatives.some((part) => hasFields(document, part))) return undefined;
    return element(
      "div",
      { class: "choices" },
      element("p", { class: "note" }, flat.oneOf === undefined ? "Any of" : "One of"),
      alternatives.map((part) =>
        element(
          "div",
          { class: "choice" },
          element("p", { class: "field-type" }, nameType(document, part)),
          renderFields(document, part, { isAnswer }, within),
        ),
      ),
    );
  }
  if (flat.items !== undefined) {
    return hasFields(document, flat.items) ? renderFields(document, flat.items, { isAnswer }, within) : undefined;
  }
  const markOf = (key) => {
    if (flat.required?.includes(key) === true) return isAnswer ? undefined : "required";
    return isAnswer ? "optional" : undefined;
  };
  const fields = Object.entries(flat.properties ?? {}).map(([key, part]) =>
    renderField(document, {
      name: key,
      schema: part,
      mark: markOf(key),
      description: flatten(document, part).description,
      nested: hasFields(document, part) ? renderFields(document, part, { isAnswer }, within) : undefined,
    }),
  );
  const { additionalProperties: others } = flat;
  if (others !== undefined && others !== false) {
    const part = typeof others === "object" ? others : {};
    fields.push(
      renderField(document, {
        name: fields.length === 0 ? "any key" : "any other key",
        schema: part,
        description: part.description,
        nested: hasFields(document, part) ? renderFields(document, part, { isAnswer }, within) : undefined,
      }),
    );
  }
  return fields.length === 0 ? undefined : element("ul", { class: "fields" }, fields);
}
