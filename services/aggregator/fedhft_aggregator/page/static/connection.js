// What the server tells: by server-sent events, or by asking every few seconds where it takes no more streams.

const ASK_EVERY_MS = 5000;
const TRY_STREAM_EVERY_MS = 30000;

export async function ask(path) {
  const answer = await fetch(path, { headers: { Accept: "application/json" }, cache: "no-store" });
  const told = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(told.error || answer.statusText), { status: answer.status });
  return told;
}

export const jobPath = (name) => `/api/jobs/${encodeURIComponent(name)}`;

// tell: {jobs(list), job(news), state(kind, text)}; returns a function that ends it.
export function follow(name, tell) {
  let stream;
  let timer;
  let over = false;

  function listen() {
    stream = new EventSource(`/api/events?job=${encodeURIComponent(name || "")}`);
    stream.onopen = () => tell.state("live", "live");
    stream.addEventListener("jobs", (event) => tell.jobs(JSON.parse(event.data)));
    stream.addEventListener("job", (event) => tell.job(JSON.parse(event.data)));
    stream.addEventListener("refused", (event) => {
      stream.close();
      tell.state("lost", JSON.parse(event.data).error);
    });
    stream.onerror = () => {
      if (over) return;
      if (stream.readyState === EventSource.CLOSED) poll(0); // an answer that is no stream: the server is full, or gone
      else tell.state("lost", "reconnecting");
    };
  }

  async function poll(asked) {
    if (over) return;
    try {
      tell.jobs(await ask("/api/jobs"));
      if (name) tell.job(await ask(jobPath(name)));
      tell.state("live", `asking every ${ASK_EVERY_MS / 1000} s`);
    } catch (error) {
      tell.state("lost", error.status ? error.message : "the aggregator does not answer");
    }
    timer = setTimeout(() => (asked * ASK_EVERY_MS >= TRY_STREAM_EVERY_MS ? listen() : poll(asked + 1)), ASK_EVERY_MS);
  }

  listen();
  return () => {
    over = true;
    clearTimeout(timer);
    stream.close();
  };
}
