"""To look at: a page that is one file (`html`), and a live page on this machine (`live`).

What is drawn is worked out by pure functions of arrays (`arrays`, `editing`, `synthetic`), which
know nothing of pages and are tested without a browser.
"""
