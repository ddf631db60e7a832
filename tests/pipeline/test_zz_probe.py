import time, pytest, socket, threading
from django.db import transaction
from pipeline.topics import *

@pytest.fixture
def dead_broker():
    alive = current_app.conf.broker_url
    current_app.conf.broker_url = current_app.conf.broker_write_url = "redis://127.0.0.1:9/0"
    current_app.pool.force_close_all()
    current_app.amqp._producer_pool = None
    yield
    current_app.conf.broker_url = current_app.conf.broker_write_url = alive
    current_app.pool.force_close_all()
    current_app.amqp._producer_pool = None
from celery import current_app
from tests.conftest import bells

@pytest.mark.django_db(transaction=True)
def test_time(bells, dead_broker, caplog):
    for topic in (Topic.ORDERS, Topic.COMMAND, Topic.COMMAND):
        t=time.monotonic()
        with transaction.atomic():
            publish(topic, 7, order_id=7, feed_id=1, session_id=2)
        print(topic, round(time.monotonic()-t,2), [r.getMessage() for r in caplog.records]); caplog.clear()

@pytest.mark.django_db(transaction=True)
def test_hung(bells, dead_broker, caplog):
    s=socket.socket(); s.bind(("127.0.0.1",0)); s.listen(50)
    current_app.conf.broker_url = current_app.conf.broker_write_url = f"redis://127.0.0.1:{s.getsockname()[1]}/0"
    current_app.pool.force_close_all()
    current_app.amqp._producer_pool = None
    for topic in (Topic.ORDERS,Topic.COMMAND):
        t=time.monotonic()
        with transaction.atomic():
            publish(topic, 7, order_id=7, feed_id=1, session_id=2)
        print(topic, round(time.monotonic()-t,2), [r.getMessage() for r in caplog.records]); caplog.clear()
