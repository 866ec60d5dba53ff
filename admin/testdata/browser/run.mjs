// Drives Chromium through the pages, for browser_test.go, which has the server. It gets JSON as its only argument: the addresses, tokens and
// paths. It prints a line of JSON for each promise: its name, and what is wrong; and "do" where the server is to do something.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const given = JSON.parse(process.argv[2]);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const person = "/admin/mailboxes/ann@contoso.com";
const broken = "/admin/mailboxes/bob@contoso.com";

const browser = await chromium.launch({ executablePath: given.chromium, args: ["--no-sandbox", "--disable-gpu"] }); // root may have no sandbox

const tell = (line) => console.log(JSON.stringify(line));

// complaints are what the browser itself says of the pages: errors of the script, and what the policy kept from loading.
const complaints = [];

const visit = async (options, use) => {
  const context = await browser.newContext({ baseURL: given.url, viewport: { width: 1200, height: 900 }, colorScheme: "light", ...options });
  context.setDefaultTimeout(given.timeout);
  const page = await context.newPage();
  page.on("pageerror", (e) => complaints.push(`${page.url()}: ${e.message}`));
  page.on("console", (m) => {
    const expected = /status of 40[14]|Password forms should/.test(m.text());
    if (["error", "warning"].includes(m.type()) && !expected) complaints.push(`${page.url()}: ${m.text()}`);
  });
  try {
    await use(page, context);
  } finally {
    await context.close();
  }
};

const promise = async (name, options, use) => {
  try {
    await visit(options, use);
    tell({ name });
  } catch (e) {
    tell({ name, wrong: e.stack });
  }
};

const must = (ok, what) => {
  if (!ok) throw new Error(what);
};

const signIn = async (page, to = "/admin/") => {
  await page.goto(to);
  await page.fill("#token", given.token);
  await page.click("main button");
  await page.waitForURL("**" + to);
};

// sound holds a page to what every page has to be.
const sound = async (page) => {
  await page.evaluate(axe);
  const found = await page.evaluate(() => window.axe.run(document));
  must(found.violations.length === 0, page.url() + ": " + found.violations.map((v) => `${v.id}: ${v.help}: ${v.nodes.map((n) => n.html).join(" ").slice(0, 300)}`).join("\n"));
  const wide = await page.evaluate(() => {
    const room = window.innerWidth;
    if (document.documentElement.scrollWidth <= room) return "";
    const out = [...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > room && !e.closest(".scroll"));
    return out.map((e) => e.outerHTML.slice(0, 80)).join("\n");
  });
  must(!wide, `${page.url()} is wider than the window: ${wide}`);
};

const picture = async (page, name) => {
  if (given.pictures) await page.screenshot({ path: `${given.pictures}/${name}.png` });
};

await promise("a person is found by a part of the address", {}, async (page) => {
  await signIn(page);
  await page.fill("#q", "ann@");
  await page.click("text=Search");
  await page.waitForURL("**" + person);
  must(await page.isVisible("text=Autodiscover (SOAP)"), "the page does not say how the mailbox was found");
});

await promise("a broken mailbox is explained", {}, async (page) => {
  await signIn(page);
  await page.click("text=bob@contoso.com"); // of the condition
  await page.waitForURL("**" + broken);
  for (const text of ["mailbell cannot read this mailbox", "the password is wrong", "Mend HTTP 401"]) {
    must(await page.isVisible(`text=${text}`), `the page does not say: ${text}`);
  }
});

await promise("a test notification is followed step by step", {}, async (page) => {
  await signIn(page, person);
  await page.click("text=Send a test notification");
  await page.waitForSelector("#steps li:nth-child(1)");
  must((await page.locator("#steps li").count()) === 1, "more steps than have happened");
  must((await page.textContent("#verdict")).includes("Under way"), "it does not say that it is under way");
  tell({ do: "step" });
  await page.waitForSelector("#steps li:nth-child(2)");
  tell({ do: "step" });
  await page.waitForSelector("#steps li:nth-child(3)");
  await page.waitForSelector("#verdict .badge");
  must((await page.textContent("#verdict")).includes("was not accepted"), "there is no verdict");
  must((await page.textContent("#steps")).includes("Correct password_file."), "there is no advice");
  must(await page.evaluate(() => document.activeElement.textContent.includes("Send")), "the focus is lost");
  await picture(page, "admin-person");
  await sound(page);
});

await promise("a test that is refused says why", {}, async (page) => {
  await signIn(page, person);
  await page.click("text=Send a test notification"); // within ten seconds after the last one
  await page.waitForSelector("text=once in ten seconds");
});

await promise("without JavaScript everything works", { javaScriptEnabled: false }, async (page) => {
  await signIn(page, broken);
  await page.click("text=Send a test notification");
  await page.waitForURL("**/admin/test-notifications");
  must(await page.isVisible("text=Correct password_file."), "the page of the test has no advice");
  await page.click("text=Back to the mailbox");
  await page.waitForURL("**" + broken + "?device=bob-phone");
  await page.click("text=Sign out");
  await page.waitForURL("**/admin/sign-in");
  await page.goto("/admin/");
  must(page.url().includes("/admin/sign-in"), "the session goes on after the sign-out");
});

await promise("the overview changes by itself and leaves the focus where it is", {}, async (page) => {
  await signIn(page);
  await page.waitForSelector("text=This page is kept up to date");
  await page.focus("#live a[href*='state=failing']");
  tell({ do: "change" });
  await page.waitForSelector("text=Open TCP 443 from this machine to api.push.apple.com.");
  must((await page.textContent("#summary")).includes("2 things need attention"), "who cannot see the change is not told");
  must(await page.evaluate(() => document.activeElement.getAttribute("href") === "/admin/mailboxes?state=failing"), "the focus is lost");
});

await promise("a link from another site needs no second sign-in", {}, async (page) => {
  await signIn(page);
  await page.goto(given.other);
  await page.click("text=look at this");
  await page.waitForURL("**" + person);
  await page.waitForSelector("text=EX01");
});

await promise("the keyboard is enough", {}, async (page) => {
  await page.goto(person);
  await page.waitForFunction(() => document.activeElement.id === "token"); // by itself
  await page.keyboard.type(given.token);
  await page.keyboard.press("Enter");
  await page.waitForURL("**" + person);
  await page.keyboard.press("Tab");
  must(await page.evaluate(() => document.activeElement.className === "skip" && document.activeElement.getBoundingClientRect().left >= 0), "the first stop is no visible link to the content");
  await page.keyboard.press("Enter");
  must(await page.evaluate(() => document.activeElement.id === "main"), "the link does not lead to the content");
  await page.goto("/admin/");
  const stops = new Set();
  for (let i = 0; i < 60; i++) {
    await page.keyboard.press("Tab");
    const [what, seen] = await page.evaluate(() => {
      const e = document.activeElement;
      return [e.id || e.getAttribute("href") || e.textContent.trim(), e === document.body || getComputedStyle(e).outlineStyle !== "none"];
    });
    must(seen, `the focus on ${what} cannot be seen`);
    stops.add(what);
  }
  for (const want of ["/admin/mailboxes", "q", "Search", "Sign out operator", "/admin/mailboxes/bob@contoso.com", "/admin/mailboxes?state=failing"]) {
    must(stops.has(want), `the keyboard does not lead to ${want}: ${[...stops].join(", ")}`);
  }
  await page.focus("#q");
  await page.keyboard.type("behind");
  await page.keyboard.press("Enter");
  await page.waitForURL("**" + person + "?device=behind-ann");
});

await promise("a mailbox goes over to Microsoft Graph and back, without JavaScript", { javaScriptEnabled: false }, async (page) => {
  await signIn(page);
  await page.click("text=End of EWS in Exchange Online");
  await page.waitForURL("**/admin/end-of-ews");
  await page.fill("#mailbox-0", "bob@contoso.com");
  await page.click("text='To Microsoft Graph'");
  await page.waitForSelector("[role=status]:has-text('bob@contoso.com goes over to Microsoft Graph.')");
  await page.click("tr:has-text('bob@contoso.com') button:has-text('Back to EWS')");
  await page.waitForSelector("[role=status]:has-text('bob@contoso.com goes over to EWS.')");
});

const looks = {
  light: {},
  dark: { colorScheme: "dark" },
  phone: { viewport: { width: 375, height: 812 } },
  "a dark phone": { viewport: { width: 320, height: 640 }, colorScheme: "dark" },
};
for (const [look, options] of Object.entries(looks)) {
  await promise(`axe finds nothing, and nothing is too wide: ${look}`, options, async (page) => {
    await page.goto("/admin/");
    await sound(page);
    await page.fill("#token", "wrong");
    await page.click("main button");
    await page.waitForSelector("[role=alert]");
    await sound(page);
    await signIn(page);
    for (const target of ["/admin/", person, broken + "?device=bob-phone", "/admin/mailboxes", "/admin/search?q=contoso", "/admin/end-of-ews", "/admin/nothing"]) {
      await page.goto(target);
      await sound(page);
    }
    await page.goto("/admin/");
    if (look === "light" || look === "dark") await picture(page, "admin-overview-" + look);
    await page.goto(broken);
    if (look === "phone") await picture(page, "admin-phone");
  });
}

tell({ name: "the browser has nothing to complain of", wrong: complaints.join("\n") || undefined });
await browser.close();
