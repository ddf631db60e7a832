import os, shutil, pytest, time
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]="1"
from playwright.sync_api import sync_playwright
from tests.admin.conftest import make_trader, signed_in
from tests.factories import *
def test_x(live_server, transactional_db, bells):
    alice = make_trader("alice"); make_market()
    s = make_session(make_account(alice), make_config(alice), name="mine", status="CREATED")
    sid = signed_in(alice).cookies["sessionid"].value
    with sync_playwright() as p:
        t=time.time()
        b = p.chromium.launch(executable_path=shutil.which("chromium"), args="--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync".split())
        print("launch", time.time()-t)
        c = b.new_context(viewport={"width":1280,"height":1000}); pg = c.new_page()
        c.on("request", lambda r: print("REQ", r.url))
        c.on("console", lambda m: print("CON", m.type, m.text))
        c.on("weberror", lambda m: print("ERR", m.error))
        def shot(path, name):
            t=time.time(); pg.goto(live_server.url+path); pg.wait_for_load_state("networkidle"); print(path, time.time()-t)
            pg.screenshot(path=f"/tmp/shots/{name}.png")
        os.makedirs("/tmp/shots", exist_ok=True)
        shot("/", "login")
        open("/tmp/shots/login.html","w").write(pg.content())
        c.add_cookies([dict(name="sessionid", value=sid, url=live_server.url)])
        shot("/", "front")
        for n in ("exchanges/account", "strategies/strategyconfig", "trading_sessions/tradingsession"):
            shot(f"/admin/{n}/add/", n.split("/")[1])
            open(f"/tmp/shots/{n.split('/')[1]}.html","w").write(pg.content())
        shot(f"/admin/trading_sessions/tradingsession/{s.pk}/change/", "session")
        open("/tmp/shots/session.html","w").write(pg.content())
        pg.get_by_text("Start", exact=True).first.click(); pg.wait_for_timeout(800); pg.screenshot(path="/tmp/shots/dialog.png")
        open("/tmp/shots/dialog.html","w").write(pg.content())
        shot("/api/docs/", "docs")
        open("/tmp/shots/docs.html","w").write(pg.content())
        b.close()
