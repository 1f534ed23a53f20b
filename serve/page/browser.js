// Conversations in the browser's IndexedDB: they may hold files, for which local storage has no room.
// Each run of the page hands over what there is to keep (`data`); what is read goes back as one trigger, `event`.

const NAME = "mmllm-chat";
const HERE = "mmllm-chat-conversation"; // of this tab, which a reload opens again
const state = (window.mmllmChat ??= { session: null, saved: null, opened: 0, queue: Promise.resolve() });

function database() {
  return new Promise((resolve, reject) => {
    const asked = indexedDB.open(NAME, 1);
    asked.onupgradeneeded = () => {
      for (const store of ["conversations", "files", "settings"]) asked.result.createObjectStore(store);
    };
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });
}

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function stores(mode, work) {
  const db = await database();
  try {
    const change = db.transaction(["conversations", "files", "settings"], mode);
    const finished = new Promise((resolve, reject) => {
      change.oncomplete = resolve;
      change.onerror = change.onabort = () => reject(change.error);
    });
    const found = await work((name) => change.objectStore(name));
    await finished;
    return found;
  } finally {
    db.close();
  }
}

const digests = (conversation) => conversation.turns.flatMap((turn) => turn.files.map((file) => file.digest));

async function read(store, ident) {
  const conversation = ident ? await done(store("conversations").get(ident)) : undefined;
  const files = {};
  for (const digest of conversation ? digests(conversation) : []) {
    const found = await done(store("files").get(digest));
    if (found !== undefined) files[digest] = found;
  }
  return { conversation: conversation ?? null, files };
}

function listed(conversations) {
  return conversations
    .map(({ id, title, changed }) => ({ id, title, changed }))
    .sort((one, other) => other.changed - one.changed);
}

async function begin() {
  return stores("readonly", async (store) => ({
    kind: "ready",
    conversations: listed(await done(store("conversations").getAll())),
    settings: (await done(store("settings").get("page"))) ?? null,
    ...(await read(store, sessionStorage.getItem(HERE))),
  }));
}

// What is kept has all its files: those that are not here yet are asked for.
async function keep(data) {
  return stores("readwrite", async (store) => {
    if (data.settings) store("settings").put(data.settings, "page");
    for (const [digest, content] of Object.entries(data.files)) store("files").put(content, digest);
    for (const ident of data.deleted) store("conversations").delete(ident);
    if (data.conversation) store("conversations").put(data.conversation, data.conversation.id);
    const known = new Set(await done(store("files").getAllKeys()));
    if (data.deleted.length) {
      const used = new Set((await done(store("conversations").getAll())).flatMap(digests));
      for (const digest of known) if (!used.has(digest)) store("files").delete(digest);
    }
    return data.conversation ? [...new Set(digests(data.conversation))].filter((digest) => !known.has(digest)) : [];
  });
}

async function follow(data, tell) {
  if (state.session !== data.session) {
    state.session = data.session;
    state.saved = null;
    state.opened = 0;
    tell(await begin());
    return;
  }
  if (!data.ready) return;
  if (data.open && data.open.number > state.opened) {
    state.opened = data.open.number;
    sessionStorage.setItem(HERE, data.open.id);
    tell({ kind: "opened", ...(await stores("readonly", (store) => read(store, data.open.id))) });
    return;
  }
  const whole = JSON.stringify([data.conversation, data.settings, data.deleted, Object.keys(data.files)]);
  if (whole === state.saved) return;
  state.saved = whole;
  sessionStorage.setItem(HERE, data.here);
  const missing = await keep(data);
  if (missing.length) tell({ kind: "missing", digests: missing });
}

export default function ({ data, setTriggerValue }) {
  const tell = (event) => setTriggerValue("event", event);
  state.queue = state.queue.then(() => follow(data, tell)).catch((error) => {
    tell({ kind: "failed", message: `${error?.name ?? "Error"}: ${error?.message ?? error}`.slice(0, 200) });
  });
}
