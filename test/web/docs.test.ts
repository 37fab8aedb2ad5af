import { existsSync } from "node:fs";
import { chromium, type Browser, type BrowserContext, type BrowserContextOptions, type Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { createApi, logIn } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// The viewer at /docs, in a real browser against a real gateway.

const executablePath = "/usr/bin/chromium";
const isChromiumHere = existsSync(executablePath);
const skipNote = isChromiumHere ? "" : `, skipped: ${executablePath} is not installed`;

const flags = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

interface ApiDocument {
  info: { title: string };
  paths: Record<string, Record<string, { summary: string }>>;
}

const listOperations = ({ paths }: ApiDocument): string[] =>
  Object.entries(paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, { summary }]) => `${method.toUpperCase()} ${path} ${summary}`),
  );

/** A document with what our own has not (yet): a schema within itself, choices, maps, null, and markup in its texts. */
const awkwardDocument = {
  openapi: "3.0.3",
  info: { title: "Awkward <b>API</b>", version: "1.0.0" },
  paths: {
    "/awkward/{id}": {
      parameters: [{ name: "id", in: "path", required: true, schema: { type: "string" } }],
      post: {
        summary: "Plant a tree",
        description: "<img src=x onerror=alert(1)>",
        security: [{ key: [] }],
        parameters: [
          { name: "sort", in: "query", schema: { type: "string", enum: ["up", "down"] } },
          { name: "X-Trace", in: "header", schema: { type: "string" } },
        ],
        requestBody: { content: { "application/json": { schema: { $ref: "#/components/schemas/Tree" } } } },
        responses: {
          200: {
            description: "A map of trees",
            content: {
              "application/json": {
                schema: { type: "object", additionalProperties: { $ref: "#/components/schemas/Tree" } },
              },
            },
          },
          204: { description: "No tree" },
        },
      },
    },
  },
  components: {
    schemas: {
      Tree: {
        type: "object",
        required: ["name"],
        properties: {
          name: { type: "string", minLength: 2, maxLength: 9 },
          note: { type: "string", nullable: true },
          height: { oneOf: [{ type: "number", minimum: 3 }, { $ref: "#/components/schemas/Range" }] },
          branches: { type: "array", maxItems: 4, items: { $ref: "#/components/schemas/Tree" } },
          value: { $ref: "#/components/schemas/Value" },
        },
      },
      Range: { type: "object", properties: { from: { type: "integer" }, to: { type: "integer" } } },
      Value: { anyOf: [{ type: "string" }, { type: "array", items: { $ref: "#/components/schemas/Value" } }] },
    },
    securitySchemes: { key: { type: "apiKey", in: "header", name: "X-API-Key" } },
  },
};

describe.skipIf(!isChromiumHere)(`the API viewer at /docs${skipNote}`, () => {
  let gateway: LocalGateway;
  let browser: Browser;
  const contexts: BrowserContext[] = [];
  /** What a page must not do: ask anybody else, break the content security policy, complain, throw. */
  const faults: string[] = [];

  beforeAll(async () => {
    gateway = await startLocalGateway();
    browser = await chromium.launch({ executablePath, args: flags });
    await logIn(gateway.url); // the user "admin"
  });

  afterAll(async () => {
    await browser?.close();
    await gateway?.close();
  });

  afterEach(async () => {
    for (const context of contexts.splice(0)) await context.close();
    const found = faults.splice(0);
    if (found.length > 0) throw new Error(`the page did what it must not: ${found.join("; ")}`);
  });

  async function openPage(path: string, options: BrowserContextOptions & { apis?: unknown[] } = {}): Promise<Page> {
    const { apis, ...contextOptions } = options;
    const context = await browser.newContext({ viewport: { width: 1300, height: 900 }, ...contextOptions });
    contexts.push(context);
    await context.addInitScript(
      "addEventListener('securitypolicyviolation', (e) => console.error('CSP: ' + e.violatedDirective + ' ' + e.blockedURI))",
    );
    context.on("request", (request) => {
      if (new URL(request.url()).origin !== gateway.url) faults.push(`asked ${request.url()}`);
    });
    context.on("weberror", (error) => faults.push(`threw ${error.error().message}`));
    context.on("console", (message) => {
      // The browser itself notes every answer of 400 and above; here they are the point.
      if (message.type() === "error" && !message.text().startsWith("Failed to load resource: the server responded"))
        faults.push(`console: ${message.text()}`);
    });
    context.setDefaultTimeout(10_000); // so that what was waited for in vain is named
    const page = await context.newPage();
    if (apis !== undefined) {
      await page.route("**/docs/apis.json", (route) =>
        route.fulfill({ json: apis.map((_, i) => ({ title: `API ${i}`, url: `/docs/test-${i}.json` })) }),
      );
      for (const [i, document] of apis.entries())
        await page.route(`**/docs/test-${i}.json`, (route) => route.fulfill({ json: document }));
    }
    await page.goto(gateway.url + path);
    await page.locator(".operation").first().waitFor();
    return page;
  }

  const openAll = (page: Page): Promise<unknown> =>
    page.evaluate("for (const head of document.querySelectorAll('.operation-head')) head.click()");

  async function logInOn(page: Page): Promise<void> {
    await page.getByRole("button", { name: "Log in", exact: true }).first().click();
    await page.getByLabel("Username or email").fill("admin");
    await page.getByLabel("Password").fill("secret123");
    await page.getByRole("dialog").getByRole("button", { name: "Log in", exact: true }).click();
    await page.getByRole("button", { name: "Logged in as admin" }).waitFor();
  }

  it("shows every operation of every API of the gateway", async () => {
    const api = createApi(gateway.url);
    const { body: index } = await api("GET", "/docs/apis.json");
    const page = await openPage("/docs");
    for (const [i, { url }] of (index as { url: string }[]).entries()) {
      const { body: document } = (await api("GET", url)) as { body: ApiDocument };
      await page.locator(".tab").nth(i).click();
      await page.getByRole("heading", { level: 1, name: document.info.title }).waitFor();
      const shown = await page
        .locator(".operation-head")
        .evaluateAll((heads) =>
          heads.map((head) =>
            [".method", ".path", ".summary"]
              .map(
                (part) =>
                  (head as { querySelector(q: string): { textContent: string } }).querySelector(part).textContent,
              )
              .join(" "),
          ),
        );
      expect(shown.toSorted()).toEqual(listOperations(document).toSorted());
      expect(await page.locator(".links a:visible").count()).toBe(shown.length);
    }
  });

  it("opens every operation without a fault", async () => {
    const page = await openPage("/docs");
    for (const tab of await page.locator(".tab").all()) {
      await tab.click();
      await openAll(page);
      expect(await page.locator(".panel:visible .try").count()).toBe(await page.locator(".operation").count());
    }
  });

  it("logs in, tries a call, and shows its status, headers and body", async () => {
    const page = await openPage("/docs#postDevices");
    const form = page.getByRole("form", { name: "Try POST /devices" });
    await form.getByText("Needs a token.").waitFor();
    await logInOn(page);
    await form.getByText("Sent as admin.").waitFor();
    await form.getByLabel("Body").fill('{"name":"<i>Shed</i>","description":"","location":"","status_id":1}');
    await form.getByRole("button", { name: "Send" }).click();
    await form.getByText("201 Created").waitFor();
    const { id } = JSON.parse((await form.locator(".answer-body").textContent()) ?? "") as { id: string };
    await form.getByText("Headers").click();
    expect(await form.locator(".headers pre").textContent()).toContain("content-type: application/json");

    await page.goto(`${gateway.url}/docs#getDevicesById`);
    const read = page.getByRole("form", { name: "Try GET /devices/{id}" });
    await read.getByLabel("id").fill(id);
    await read.getByRole("button", { name: "Send" }).click();
    await read.getByText("200 OK").waitFor();
    // Markup in an answer stays text.
    expect(await read.locator(".answer-body").textContent()).toContain('"name": "<i>Shed</i>"');
    expect(await read.locator(".answer-body i").count()).toBe(0);
  });

  it("keeps the token over a reload, for its tab alone, until the logout", async () => {
    const page = await openPage("/docs");
    await logInOn(page);
    await page.reload();
    await page.getByRole("button", { name: "Logged in as admin" }).click();
    const other = await (contexts.at(-1) as BrowserContext).newPage();
    await other.goto(`${gateway.url}/docs`);
    await other.getByRole("button", { name: "Log in", exact: true }).waitFor();
    await page.getByRole("button", { name: "Log out" }).click();
    await page.getByRole("button", { name: "Log in", exact: true }).waitFor();
    expect(await page.evaluate("sessionStorage.length")).toBe(0);
  });

  it("says what the gateway says to a wrong password, and takes a pasted token", async () => {
    const page = await openPage("/docs#getProtected");
    await page.getByRole("button", { name: "Log in", exact: true }).first().click();
    await page.getByLabel("Username or email").fill("admin");
    await page.getByLabel("Password").fill("wrong-password");
    await page.getByLabel("Password").press("Enter");
    await page.getByRole("alert").getByText("invalid credentials").waitFor();
    const { token = "" } = await logIn(gateway.url);
    await page.getByLabel("Token or API key").fill(token);
    await page.getByRole("button", { name: "Use it" }).click();
    const form = page.getByRole("form", { name: "Try GET /protected" });
    await form.getByRole("button", { name: "Send" }).click();
    await form.getByText("200 OK").waitFor();
    expect(await form.locator(".answer-body").textContent()).toContain('"sub": "admin"');
  });

  it("registers a user and logs in with one click", async () => {
    const page = await openPage("/docs");
    await page.getByRole("button", { name: "Log in", exact: true }).click();
    await page.getByLabel("Username or email").fill("newcomer");
    await page.getByLabel("Password").fill("secret123");
    await page.getByRole("button", { name: "Register and log in" }).click();
    await page.getByRole("button", { name: "Logged in as newcomer" }).waitFor();
    expect(
      (await createApi(gateway.url)("POST", "/login", { username: "newcomer", password: "secret123" })).status,
    ).toBe(200);
  });

  it("answers a call without a token with what the gateway says, and does not send one that lacks its id", async () => {
    const page = await openPage("/docs#getDevicesById");
    const form = page.getByRole("form", { name: "Try GET /devices/{id}" });
    await form.getByRole("button", { name: "Send" }).click();
    await form.getByText("id is required").waitFor();
    await form.getByLabel("id").fill("3814fb88-565c-5dc8-9b91-60d4002b6edc");
    await form.getByRole("button", { name: "Send" }).click();
    await form.getByText("401 Unauthorized").waitFor();
    expect(await form.locator(".answer-body").textContent()).toContain('"error": "no claims"');
  });

  it("shows a stream of events as they come, until it is cancelled", async () => {
    const page = await openPage("/docs#getV1Live");
    await logInOn(page);
    const form = page.getByRole("form", { name: "Try GET /v1/live" });
    await form.getByRole("button", { name: "Send" }).click();
    await form.getByText("200 OK").waitFor();
    const { token = "" } = await logIn(gateway.url);
    const api = createApi(gateway.url, token);
    const { body: device } = await api("POST", "/v1/devices", { id: "LIVE-1", name: "Live", type: "temperature" });
    expect(device.id).toBe("LIVE-1");
    await api("POST", "/v1/data/LIVE-1", { timestamp: new Date().toISOString(), value: 4.25 });
    await form.locator(".answer-body", { hasText: /event: reading\n.*4\.25/ }).waitFor();
    await form.getByRole("button", { name: "Cancel" }).click();
    await form.getByText("cancelled").waitFor();
    await form.getByRole("button", { name: "Send" }).waitFor();
  });

  it("gives the call as a curl command", async () => {
    const page = await openPage("/docs#postSensorReadings", { permissions: ["clipboard-read", "clipboard-write"] });
    await logInOn(page);
    const form = page.getByRole("form", { name: "Try POST /sensor-readings" });
    await form.getByLabel("Body").fill(`{"note":"it's"}`);
    await form.getByRole("button", { name: "Copy as curl" }).click();
    const command = await form.locator(".curl pre").textContent();
    expect(command).toMatch(
      /^curl -X POST \\\n {2}'http:\/\/[^/]+\/sensor-readings' \\\n {2}-H 'Authorization: Bearer [\w.-]+' \\\n {2}-H 'Content-Type: application\/json' \\\n {2}--data-raw '\{"note":"it'\\''s"\}'$/,
    );
    expect(await page.evaluate("navigator.clipboard.readText()")).toBe(command);
  });

  it("opens the operation that the address names, and names the one that is opened", async () => {
    const page = await openPage("/docs#getSensorReadings");
    expect(await page.locator(".operation.is-open").getAttribute("id")).toBe("getSensorReadings");
    expect(await page.locator(".links a[aria-current]").getAttribute("href")).toBe("#getSensorReadings");
    await page.locator("#getHealth .operation-head").click();
    expect(new URL(page.url()).hash).toBe("#getHealth");
    await page.locator('.links a[href="#postLogin"]').click();
    await page.locator("#postLogin.is-open").waitFor();
  });

  it("is used with the keyboard alone", async () => {
    const page = await openPage("/docs");
    await page.keyboard.press("/");
    await page.keyboard.type("hello");
    expect(await page.locator(".operation:visible").count()).toBe(1);
    await page.keyboard.press("Enter");
    const form = page.getByRole("form", { name: "Try GET /hello" });
    await form.waitFor();
    await form.getByRole("button", { name: "Send" }).focus();
    await page.keyboard.press("Enter");
    await form.getByText("200 OK").waitFor();
    await page.keyboard.press("/");
    await page.keyboard.type("put device");
    expect(await page.locator(".operation:visible .path").allTextContents()).toEqual(["/devices/{id}"]);
    await page.keyboard.press("Escape");
    expect(await page.locator(".operation:visible").count()).toBeGreaterThan(20);
    await page.locator("#getHealth .operation-head").focus();
    await page.keyboard.press("Space");
    await page.locator("#getHealth.is-open").waitFor();
  });

  it("fits a phone's width, whatever is open", async () => {
    const page = await openPage("/docs", { viewport: { width: 360, height: 740 } });
    await openAll(page);
    expect(await page.evaluate("document.documentElement.scrollWidth")).toBe(360);
  });

  it("shows several APIs beside each other, schemas of every kind, and texts as texts", async () => {
    const { body: own } = await createApi(gateway.url)("GET", "/openapi.json");
    const page = await openPage("/docs", { apis: [own, awkwardDocument] });
    expect(await page.locator(".tab").allTextContents()).toEqual(["API 0", "API 1"]);
    await page.locator(".tab").nth(1).click();
    await page.getByRole("heading", { level: 1, name: "Awkward <b>API</b>" }).waitFor();
    await page.locator(".operation-head").click();
    const about = page.locator(".about");
    for (const text of ["<img src=x onerror=alert(1)>", "2 to 9 characters", "string or null", "number or Range"])
      await about.getByText(text, { exact: true }).first().waitFor();
    for (const text of ["array of Tree", "at most 4 items", "Tree again, as above", "any key", "map of Tree", "Value"])
      await about.getByText(text, { exact: true }).first().waitFor();
    const example = JSON.parse((await about.locator(".example pre").first().textContent()) ?? "") as unknown;
    expect(example).toEqual({ name: "string", note: "string", height: 3, branches: [{}], value: "string" });

    const sent = page.waitForRequest((request) => request.url().includes("/awkward/"));
    await page.evaluate("sessionStorage.setItem('lambdaiot.credential', 'key-1')");
    const form = page.locator(".try");
    await form.getByLabel("id", { exact: false }).first().fill("a b/c");
    await form.getByLabel("sort").selectOption("down");
    await form.getByLabel("X-Trace").fill("t-1");
    await form.getByRole("button", { name: "Send" }).click();
    const request = await sent;
    expect(request.url()).toBe(`${gateway.url}/awkward/a%20b%2Fc?sort=down`);
    expect(request.headers()).toMatchObject({ "x-trace": "t-1", "x-api-key": "key-1" });
    await form.getByText("404 Not Found").waitFor();
  });

  it.each(["light", "dark"] as const)("has text that stands out from its ground: %s", async (colorScheme) => {
    const page = await openPage("/docs", { colorScheme });
    const pairs = [
      ...["ground", "surface", "sunken"].flatMap((ground) => [
        ["text", ground],
        ["soft", ground],
      ]),
      ...["accent", "delete"].map((text) => [text, "surface"]),
      ...["get", "post", "put"].map((text) => [text, "sunken"]),
      ...["accent", "get", "post", "put", "delete"].map((text) => [text, `${text}-ground`]),
      ["on-accent", "accent"],
    ] as [string, string][];
    for (const [text, ground] of pairs) {
      const [a, b] = (await page.evaluate(
        `["${text}", "${ground}"].map((name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name))`,
      )) as [string, string];
      expect(contrast(a, b), `${text} on ${ground}`).toBeGreaterThanOrEqual(4.5);
    }
  });

  it("is served without anything inline allowed, also with a slash at the end", async () => {
    const response = await fetch(`${gateway.url}/docs/`);
    expect(response.url).toBe(`${gateway.url}/docs`);
    const policy = response.headers.get("Content-Security-Policy");
    expect(policy).toContain("default-src 'none'");
    expect(policy).not.toContain("unsafe");
    const html = await response.text();
    expect(html).not.toMatch(/<style|style=|<script(?![^>]*src=)|\son\w+=|https?:/i);
  });
});

/** WCAG's contrast ratio of two colours in `#rrggbb`. */
function contrast(a: string, b: string): number {
  const luminance = (colour: string): number => {
    const [red = 0, green = 0, blue = 0] = (colour.trim().match(/[0-9a-f]{2}/gi) ?? []).map((hex) => {
      const part = Number.parseInt(hex, 16) / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const [light = 0, dark = 0] = [luminance(a), luminance(b)].toSorted((x, y) => y - x);
  return (light + 0.05) / (dark + 0.05);
}
