// The server's access token, where it has one: from the address's #token=…, kept for this tab only.

const NAME = 'glassbox-token';

/** The token, or null. */
export function accessToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get('token');
  if (given) {
    keepToken(given);
    history.replaceState(null, '', location.pathname + location.search); // it should not stay in the address bar
  }
  try {
    return sessionStorage.getItem(NAME);
  } catch {
    return null; // a browser without storage, or a file opened from disk
  }
}

/** Keeps what the reader typed. */
export function keepToken(token) {
  try {
    sessionStorage.setItem(NAME, token);
  } catch { /* then it has to be in the address */ }
}
